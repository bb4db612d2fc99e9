"""`minibert export` and `minibert import`. As in cli.py, what a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)

FormatOption = Annotated[str, typer.Option("--format", help="transformers, sentence-transformers or onnx.")]
OutputOption = Annotated[str, typer.Option(help="A directory or URI that is not there yet, or empty.")]


@app.command()
def export(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory or URI, or an encoder's name.")],
    format_: FormatOption,
    output: OutputOption,
    dtype: Annotated[str, typer.Option(help="float32, or float16: half the size, fewer digits.")] = "float32",
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Also to that repository of the Hugging Face hub (HF_TOKEN)."),
    ] = None,
) -> None:
    """Write a bundle as transformers, sentence-transformers or ONNX, with a model card."""
    from ray_jobs.export import export_bundle

    export_bundle(bundle, format_, output, dtype, push)


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="A BERT of transformers or sentence-transformers: directory, URI, hub id.")
    ],
    output: OutputOption,
) -> None:
    """Make a bundle of someone else's BERT, or of what `minibert export` wrote."""
    from ray_jobs.export import import_model

    import_model(source, output)
