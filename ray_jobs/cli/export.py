"""`minibert export` and `minibert import`. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.shared import DataOption, EncoderArgument, JsonOption, QuietOption, choices, examples

app = typer.Typer(rich_markup_mode=None)

FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="transformers, sentence-transformers, cross-encoder or onnx.",
        autocompletion=choices("transformers", "sentence-transformers", "cross-encoder", "onnx"),
    ),
]
OutputOption = Annotated[str, typer.Option(help="A directory or URI that is not there yet, or empty.")]


@app.command(epilog=examples("minibert export runs/demo/sst --format transformers --output elsewhere"))
def export(
    bundle: EncoderArgument,
    format_: FormatOption,
    output: OutputOption,
    dtype: Annotated[
        str,
        typer.Option(
            help="float32; float16: half the size; int8: a quarter, of onnx, measured on dev.",
            autocompletion=choices("float32", "float16", "int8"),
        ),
    ] = "float32",
    task: Annotated[
        str | None, typer.Option(help="Whose head a cross-encoder gets, where it can be that of several.")
    ] = None,
    data: DataOption = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Also to that repository of the Hugging Face hub (HF_TOKEN)."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a bundle elsewhere. As transformers, sentence-transformers, a cross-encoder or ONNX, with a model card."""
    from ray_jobs.bundles.export import export_bundle
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        export_bundle(bundle, format_, output, dtype, push, screen, task, data)


@app.command("import", epilog=examples("minibert import elsewhere --output back"))
def import_(
    source: Annotated[
        str, typer.Argument(help="A BERT of transformers or sentence-transformers: directory, URI, hub id.")
    ],
    output: OutputOption,
    pooling: Annotated[
        str | None,
        typer.Option(
            help="pooler, cls, mean, ...: how tokens become a sentence, where it is not as the model itself says.",
            autocompletion=choices("pooler", "cls", "mean"),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle of someone else's BERT. Or of what `minibert export` wrote."""
    from ray_jobs.bundles.export import import_model
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        import_model(source, output, screen, pooling)
