"""`minibert embed` and `minibert predict`. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.errors import UserError
from ray_jobs.cli.shared import (
    BundleArgument,
    DataOption,
    EncoderArgument,
    JsonOption,
    QuietOption,
    WorkersOption,
    examples,
)

app = typer.Typer(rich_markup_mode=None)

EMBED_EXAMPLES = examples(
    "minibert embed runs/demo/sst texts.txt vectors",
    "minibert embed minilm-l6 reviews.csv vectors --column review --workers 2",
    "minibert embed s3://b/bundle 's3://b/texts/*.parquet' s3://b/vectors",
)

PREDICT_EXAMPLES = examples(
    "minibert predict runs/demo/sst --output predictions",
    "minibert predict runs/demo/sst --output moods --input texts.txt --task sst",
)

INPUT = "CSV, TSV, JSONL, Parquet or .txt (a text a line): a file, a directory or a pattern with *, at any URI."
OUTPUT = "The directory or URI of the Parquet parts. Run again, it goes on."

ColumnOption = Annotated[list[str] | None, typer.Option(help="A column of texts; repeatable.")]
KeepOption = Annotated[bool, typer.Option("--keep", help="Put the texts into the parts, too.")]
RowsOption = Annotated[int, typer.Option(min=1, help="Rows of a part, and of what a worker gets at a time.")]


@app.command(epilog=EMBED_EXAMPLES)
def embed(
    bundle: EncoderArgument,
    input_: Annotated[str, typer.Argument(metavar="INPUT", help=INPUT)],
    output: Annotated[str, typer.Argument(help=OUTPUT)],
    column: ColumnOption = None,
    keep: KeepOption = False,
    rows: RowsOption = 4096,
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the embeddings of a table of texts. The column is `text` where no --column says otherwise."""
    from ray_jobs.batch.table_job import TableRequest, embed_table
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        embed_table(TableRequest(bundle, input_, output, tuple(column or ()), None, keep, rows, workers), screen)


@app.command(epilog=PREDICT_EXAMPLES)
def predict(
    bundle: BundleArgument,
    output: Annotated[str, typer.Option(help="Where the files go.")],
    data: DataOption = None,
    input_: Annotated[str | None, typer.Option("--input", help=INPUT)] = None,
    task: Annotated[str | None, typer.Option(help="With --input: what to predict, if the bundle has several.")] = None,
    column: ColumnOption = None,
    keep: KeepOption = False,
    rows: RowsOption = 4096,
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write predictions for the tasks' files, or for any texts. CSV files for dev and test, and of CS224N's tasks the
    submission zip; or, with --input, those of any table of texts, as Parquet."""
    if input_ is not None and data is not None:
        raise UserError("--data and --input: give one of them; --data has the tasks' files, --input any texts")
    if input_ is None and (task or column or keep or workers):
        raise UserError("--task, --column, --keep and --workers go with --input; without it, --data is predicted")
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        if input_ is None:
            from ray_jobs.bundles.scoring import predict_bundle

            predict_bundle(bundle, data, output, screen)
        else:
            from ray_jobs.batch.table_job import TableRequest, predict_table

            predict_table(TableRequest(bundle, input_, output, tuple(column or ()), task, keep, rows, workers), screen)
