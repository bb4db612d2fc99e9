"""`minibert recruit`: BERT as a Recruiter. As in cli.py, what a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="BERT as a Recruiter: search postings, complete roles, judge suitability, audit, serve.",
)

BundleArgument = Annotated[str, typer.Argument(help="A bundle's directory or URI, or an encoder's name.")]
PostingsArgument = Annotated[str, typer.Argument(help="Postings: CSV, TSV, JSONL or Parquet, at any URI.")]
DirectoryArgument = Annotated[str, typer.Argument(help="What `minibert recruit index` made.")]
TextArgument = Annotated[str, typer.Argument(help="A text, a .txt or .md file, or - for standard input.")]
DataOption = Annotated[str, typer.Option(help="Directory or URI with the files of `minibert recruit prepare`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def prepare(
    postings: PostingsArgument,
    output: Annotated[str, typer.Option(help="Where the training files go.")],
    held_out: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of the postings kept for dev.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 11711,
) -> None:
    """Make training files from postings, for the recipes recruiter/search and recruiter/all."""
    from ray_jobs.recruit_prepare import prepare_files

    prepare_files(postings, output, held_out, seed)


@app.command()
def index(
    bundle: BundleArgument,
    postings: PostingsArgument,
    output: Annotated[str, typer.Option(help="The index's directory or URI.")],
    completion: Annotated[str | None, typer.Option(help="A bundle that completes roles, to be served.")] = None,
    suitability: Annotated[str | None, typer.Option(help="A bundle that judges suitability, to be served.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="0: this process. N: on N Ray workers.")] = 0,
) -> None:
    """Make postings searchable; the directory is all that `search` and `serve` need."""
    from ray_jobs.recruit_search import build_index

    build_index(bundle, postings, output, workers, completion, suitability)


@app.command()
def search(
    directory: DirectoryArgument,
    query: TextArgument,
    k: Annotated[int, typer.Option("-k", min=1, help="How many postings.")] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, dense or bm25.")] = "hybrid",
    as_json: JsonOption = False,
) -> None:
    """Find the postings that fit a need or a CV, and show why."""
    from ray_jobs.recruit_search import run_search

    run_search(directory, query, k, mode, as_json)


@app.command()
def complete(
    bundle: BundleArgument,
    description: TextArgument,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="How many titles.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Complete "The role in this job description is ...": the k likeliest titles."""
    from ray_jobs.recruit_completion import run_complete

    run_complete(bundle, description, k, as_json)


@app.command()
def suitability(
    bundle: BundleArgument,
    job: TextArgument,
    application: TextArgument,
    score: Annotated[bool, typer.Option("--score", help="Show the probability too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Whether an application is qualified for a job; a person decides."""
    from ray_jobs.recruit_suitability import run_suitability

    run_suitability(bundle, job, application, score, as_json)


@app.command()
def calibrate(
    bundle: BundleArgument,
    data: DataOption,
    output: Annotated[str, typer.Option(help="Where the calibrated bundle goes.")],
) -> None:
    """Fit the temperature of a suitability bundle on half of dev; the other half says what it gave."""
    from ray_jobs.recruit_suitability import calibrate

    calibrate(bundle, data, output)


@app.command()
def measure(bundle: BundleArgument, data: DataOption, as_json: JsonOption = False) -> None:
    """What a bundle is worth on held-out postings, in what it was trained for: search, completion, suitability."""
    from ray_jobs.recruit_measure import measure_bundle

    measure_bundle(bundle, data, as_json)


@app.command()
def folds(
    recipe: Annotated[str, typer.Argument(help="A recipe's YAML file, or the name of a packaged one.")],
    postings: PostingsArgument,
    stage: Annotated[str, typer.Option(help="The stage whose bundle searches.")] = "search",
    count: Annotated[int, typer.Option(min=2, help="How many folds.")] = 5,
    storage: Annotated[str, typer.Option(help="Where everything goes; every worker must reach it.")] = "./runs",
    workers: Annotated[str, typer.Option(metavar="N or MIN:MAX", help="As for `minibert train`.")] = "0",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override: key=value, repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on each fold's other postings and measure search on the fold: every posting held out once."""
    from ray_jobs.recruit_folds import run_folds

    raise typer.Exit(run_folds(recipe, postings, stage, count, storage, workers, set_ or [], as_json))


@app.command()
def audit(
    suitability: Annotated[str | None, typer.Option(help="The bundle that judges suitability.")] = None,
    index: Annotated[str | None, typer.Option(help="What `minibert recruit index` made.")] = None,
    sentiment: Annotated[str | None, typer.Option(help="A bundle with a head for sst.")] = None,
    applications: Annotated[str | None, typer.Option(help="CSV, TSV, JSONL or Parquet: id, job, application.")] = None,
    data: Annotated[str | None, typer.Option(help="Held-out files of `minibert recruit prepare`, instead.")] = None,
    output: Annotated[str | None, typer.Option(help="A JSON file for the findings; `card` reads it.")] = None,
    impact_ratio: Annotated[float, typer.Option(min=0, max=1, help="Bound: at least. Four fifths by rule.")] = 0.8,
    rank_shift: Annotated[float, typer.Option(min=0, help="Bound: ranks more than within a group, at most.")] = 0.5,
    sentiment_difference: Annotated[float, typer.Option(min=0, help="Bound: on a scale of 0..4, at most.")] = 0.1,
    as_json: JsonOption = False,
) -> None:
    """Swap names and see what changes; exit status 3 when a bound is broken."""
    from multitask.recruit.audit import Bounds
    from ray_jobs.recruit_audit import run_audit

    bounds = Bounds(impact_ratio, rank_shift, sentiment_difference)
    raise typer.Exit(run_audit(suitability, index, sentiment, applications, data, output, as_json, bounds))


@app.command()
def card(
    bundle: BundleArgument,
    data: DataOption,
    output: Annotated[str, typer.Option(help="The Markdown file to write.")],
    audit: Annotated[str | None, typer.Option(help="The JSON file of `minibert recruit audit --output`.")] = None,
) -> None:
    """Write a bundle's model card: data, labels, metrics with intervals, audit, and what it is not for."""
    from ray_jobs.recruit_measure import write_card

    write_card(bundle, data, output, audit)


@app.command()
def serve(
    directory: DirectoryArgument,
    host: Annotated[str, typer.Option(help="Another than this machine alone wants MINIBERT_TOKEN.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve search, completion and suitability on Ray Serve, with a page and an API."""
    from ray_jobs.recruit_serve import serve

    serve(directory, host, port)
