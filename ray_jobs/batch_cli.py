"""`minibert embed` and `minibert predict`. As in cli.py, what a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from multitask.errors import UserError

app = typer.Typer(rich_markup_mode=None)

EMBED_EXAMPLES = """\b
Examples:
  minibert embed minilm-l6 texts.txt vectors
  minibert embed runs/demo/TorchTrainer_.../bundle reviews.csv vectors --column review --workers 2
  minibert embed s3://bucket/bundle 's3://bucket/texts/*.parquet' s3://bucket/vectors --workers 8
"""

PREDICT_EXAMPLES = """\b
Examples:
  minibert predict BUNDLE --output predictions --data DATA
  minibert predict BUNDLE --output predictions --input reviews.parquet --task sst --column review
"""

INPUT = "CSV, TSV, JSONL, Parquet or .txt (a text a line): a file, a directory or a glob, at any URI."
OUTPUT = "The directory or URI of the Parquet parts. Run again, it goes on."

ColumnOption = Annotated[list[str] | None, typer.Option(help="A column of texts; repeatable.")]
KeepOption = Annotated[bool, typer.Option(help="Put the texts into the parts, too.")]
RowsOption = Annotated[int, typer.Option(min=1, help="Rows of a part, and of what a worker gets at a time.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="0: this process. N: on N Ray workers.")]


@app.command(epilog=EMBED_EXAMPLES)
def embed(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory or URI, or an encoder's name.")],
    input_: Annotated[str, typer.Argument(metavar="INPUT", help=INPUT)],
    output: Annotated[str, typer.Argument(help=OUTPUT)],
    column: ColumnOption = None,
    keep: KeepOption = False,
    rows: RowsOption = 4096,
    workers: WorkersOption = 0,
) -> None:
    """Write the embeddings of a table of texts; the column is `text` where no --column says otherwise."""
    from ray_jobs.batch import Request, embed_table

    embed_table(Request(bundle, input_, output, tuple(column or ()), None, keep, rows, workers))


@app.command(epilog=PREDICT_EXAMPLES)
def predict(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory or URI.")],
    output: Annotated[str, typer.Option(help="Where the files go.")],
    data: Annotated[
        str | None, typer.Option(help="The tasks' files: a directory, its URI, or a map such as glue.")
    ] = None,
    input_: Annotated[str | None, typer.Option("--input", help=INPUT)] = None,
    task: Annotated[str | None, typer.Option(help="With --input: what to predict, if the bundle has several.")] = None,
    column: ColumnOption = None,
    keep: KeepOption = False,
    rows: RowsOption = 4096,
    workers: WorkersOption = 0,
) -> None:
    """Write the CS224N prediction files for dev and test, and the submission zip; or, with --input, the predictions
    of any table of texts, as Parquet."""
    if input_ is None:
        if task or column or keep or workers:
            raise UserError("--task, --column, --keep and --workers go with --input; without it, --data is predicted")
        from ray_jobs.bundles import predict_bundle

        predict_bundle(bundle, data, output)
    elif data is None:
        from ray_jobs.batch import Request, predict_table

        predict_table(Request(bundle, input_, output, tuple(column or ()), task, keep, rows, workers))
    else:
        raise UserError("--data and --input: give one of them; --data has the tasks' files, --input any texts")
