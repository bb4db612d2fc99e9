"""`minibert recruit`: BERT as a Recruiter. What a command needs is imported inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_jobs.cli.shared import (
    ElasticOption,
    EncoderArgument,
    HostOption,
    JsonOption,
    PerClientOption,
    PortOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    StorageOption,
    WorkersOption,
    choices,
    examples,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="BERT as a Recruiter. Search postings, complete roles, judge suitability, audit, serve.",
    epilog=examples("minibert recruit prepare postings.csv --output data/jobs"),
)

PostingsArgument = Annotated[str, typer.Argument(help="Postings: CSV, TSV, JSONL or Parquet, at any URI.")]
DirectoryArgument = Annotated[str, typer.Argument(help="What `minibert recruit index` made.")]
TextArgument = Annotated[str, typer.Argument(help="A text, a .txt or .md file, or - for standard input.")]
DataOption = Annotated[str, typer.Option(help="Directory or URI with the files of `minibert recruit prepare`.")]


@app.command(epilog=examples("minibert recruit prepare postings.csv --output data/jobs"))
def prepare(
    postings: PostingsArgument,
    output: Annotated[str, typer.Option(help="Where the training files go.")],
    held_out: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of the postings kept for dev.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="By which dev is drawn.")] = 11711,
    as_json: JsonOption = False,
) -> None:
    """Make training files from postings. For the recipes recruiter/search and recruiter/all."""
    from ray_jobs.recruit.training_files import prepare_files
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        prepare_files(postings, output, held_out, seed, screen)


@app.command(epilog=examples("minibert recruit index runs/all/search postings.csv --output index"))
def index(
    bundle: EncoderArgument,
    postings: PostingsArgument,
    output: Annotated[str, typer.Option(help="The index's directory or URI.")],
    completion: Annotated[str | None, typer.Option(help="A bundle that completes roles, to be served.")] = None,
    suitability: Annotated[str | None, typer.Option(help="A bundle that judges suitability, to be served.")] = None,
    workers: WorkersOption = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make postings searchable. The directory is all that `search` and `serve` need."""
    from ray_jobs.recruit.search import IndexRequest, build_index
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        build_index(IndexRequest(bundle, postings, output, workers, completion, suitability), screen)


@app.command(epilog=examples('minibert recruit search index "someone to keep the books of a charity" -k 3'))
def search(
    directory: DirectoryArgument,
    query: TextArgument,
    k: Annotated[int, typer.Option("-k", min=1, help="How many postings.")] = 10,
    mode: Annotated[
        str, typer.Option(help="hybrid, dense or bm25.", autocompletion=choices("hybrid", "dense", "bm25"))
    ] = "hybrid",
    as_json: JsonOption = False,
) -> None:
    """Find the postings that fit a need or a CV, and why."""
    from ray_jobs.recruit.search import run_search
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        run_search(directory, query, k, mode, screen)


@app.command(epilog=examples("minibert recruit complete runs/all/completion job.txt"))
def complete(
    bundle: EncoderArgument,
    description: TextArgument,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="How many titles.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Name the roles that a description is of. Completes "The role in this job description is ..."."""
    from ray_jobs.recruit.completion import run_complete
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        run_complete(bundle, description, k, screen)


@app.command(epilog=examples("minibert recruit suitability runs/all/suitability job.txt cv.md --score"))
def suitability(
    bundle: EncoderArgument,
    job: TextArgument,
    application: TextArgument,
    score: Annotated[bool, typer.Option("--score", help="Show the probability too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Whether an application is qualified for a job. A person decides."""
    from ray_jobs.recruit.suitability import run_suitability
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        run_suitability(bundle, job, application, score, screen)


@app.command(
    epilog=examples("minibert recruit calibrate runs/all/suitability \\\n    --data data/jobs --output calibrated")
)
def calibrate(
    bundle: EncoderArgument,
    data: DataOption,
    output: Annotated[str, typer.Option(help="Where the calibrated bundle goes.")],
    as_json: JsonOption = False,
) -> None:
    """Fit the temperature of a suitability bundle. On half of dev; the other half says what it gave."""
    from ray_jobs.recruit.suitability import calibrate
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        calibrate(bundle, data, output, screen)


@app.command(epilog=examples("minibert recruit measure runs/all/search --data data/jobs"))
def measure(bundle: EncoderArgument, data: DataOption, as_json: JsonOption = False) -> None:
    """What a bundle is worth on held-out postings. In what it was trained for: search, completion, suitability."""
    from ray_jobs.recruit.measure import measure_bundle
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        measure_bundle(bundle, data, screen)


@app.command(epilog=examples("minibert recruit folds recruiter/search postings.csv"))
def folds(
    recipe: RecipeArgument,
    postings: PostingsArgument,
    stage: Annotated[str, typer.Option(help="The stage whose bundle searches.")] = "search",
    count: Annotated[int, typer.Option(min=2, help="How many folds.")] = 5,
    storage: StorageOption = "./runs",
    workers: ElasticOption = "0",
    set_: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure search with every posting held out once. Trains a recipe on each fold's other postings."""
    from ray_jobs.recruit.folds import FoldsRequest, run_folds
    from ray_jobs.screen import Screen

    request = FoldsRequest(recipe, postings, stage, count, storage, workers, set_ or [])
    with Screen(quiet=quiet, as_json=as_json) as screen:
        raise typer.Exit(run_folds(request, screen))


@app.command(
    epilog=examples("minibert recruit audit --suitability calibrated \\\n    --data data/jobs --output audit.json")
)
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
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Swap names and see what changes. Exit status 3 when a bound is broken."""
    from multitask.recruit.audit import Bounds
    from ray_jobs.recruit.audit import AuditRequest, run_audit
    from ray_jobs.screen import Screen

    bounds = Bounds(impact_ratio, rank_shift, sentiment_difference)
    request = AuditRequest(suitability, index, sentiment, applications, data, output, bounds)
    with Screen(quiet=quiet, as_json=as_json) as screen:
        raise typer.Exit(run_audit(request, screen))


@app.command(
    epilog=examples("minibert recruit card calibrated \\\n    --data data/jobs --audit audit.json --output CARD.md")
)
def card(
    bundle: EncoderArgument,
    data: DataOption,
    output: Annotated[str, typer.Option(help="The Markdown file to write.")],
    audit: Annotated[str | None, typer.Option(help="The JSON file of `minibert recruit audit --output`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a bundle's model card. Data, labels, metrics with intervals, audit, and what it is not for."""
    from ray_jobs.recruit.measure import write_card
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        write_card(bundle, data, output, audit, screen)


@app.command(epilog=examples("minibert recruit serve index"))
def serve(
    directory: DirectoryArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    per_client: PerClientOption = 64,
) -> None:
    """Serve search, completion and suitability. On Ray Serve, with a page and an API."""
    from ray_jobs.recruit.serve import serve
    from ray_jobs.screen import Screen
    from ray_jobs.serving.start import Listening

    with Screen(timed=False) as screen:
        serve(directory, Listening(host, port, per_client), screen)
