"""The `minibert` command. What a command needs is imported inside it, so that --help is quick."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multitask.errors import UserError
from ray_jobs.batch_cli import app as batch_app
from ray_jobs.cli_options import (
    BundleArgument,
    DataOption,
    DeviceOption,
    ElasticOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    StorageOption,
    words,
)
from ray_jobs.export_cli import app as export_app
from ray_jobs.importing import uncollected
from ray_jobs.options import Workers, sweep_settings, workers_span
from ray_jobs.recruit_cli import app as recruit_app
from ray_jobs.stopping import INTERRUPTED, waits_for_ray

if TYPE_CHECKING:
    from multitask.recipe import Recipe

USER_ERROR = 2
# Packages that only `minibert recruit` needs -> the extra that brings them.
EXTRAS = {"bm25s": "recruit", "datasketch": "recruit", "usearch": "recruit"}
EXTRAS |= {"fastapi": "serve", "starlette": "serve", "uvicorn": "serve"}
EXTRAS |= {"onnx": "export", "onnxruntime": "export", "onnxscript": "export", "huggingface_hub": "export"}

app = typer.Typer(
    name="minibert",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
)
data_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at data before training on it.")
app.add_typer(data_app, name="data")
app.add_typer(recruit_app, name="recruit")
app.add_typer(batch_app)
app.add_typer(export_app)

# \b keeps click from filling the lines into a paragraph.
TRAIN_EXAMPLES = """\b
Examples:
  minibert train configs/recipes/demo.yaml --workers 2
  minibert train configs/recipes/demo.yaml --set defaults.epochs=1 --set stages.sts.lr=3e-5
  minibert train bertaar/para-sts_cosine-sst_last --data DATA --workers 6
  minibert train classifier/sst_last --data DATA --seeds 3
  minibert train my.yaml --data s3://bucket/data --storage s3://bucket/runs --experiment first
"""

SWEEP_EXAMPLES = """\b
Examples:
  minibert sweep bertaar/para-sts_cosine-sst_last --stage sts --grid lr=1e-4,3e-5,1e-5 --by sts/pearson --data DATA
  minibert sweep my.yaml --stage sst --random lr=1e-5..1e-3 --samples 9 --asha --by sst/accuracy --workers 2
  minibert sweep sweeps/mlm --data DATA
"""

ProfileOption = Annotated[bool, typer.Option(help="Trace some steps of each stage: its folder's profile/.")]
SeedsOption = Annotated[
    int, typer.Option(min=1, help="Run with that many seeds, the recipe's and those after it; mean and deviation.")
]
FreshOption = Annotated[
    bool, typer.Option(help="Supersede stages that differ from those under their names; nothing is deleted.")
]


def _version(asked: bool) -> None:
    if asked:
        from multitask import __version__

        typer.echo(f"minibert {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train small BERT models on sentence tasks, on one machine or on Ray."""


@app.command(epilog=TRAIN_EXAMPLES)
def train(
    recipe: RecipeArgument,
    data: DataOption = None,
    storage: StorageOption = "./runs",
    experiment: Annotated[str | None, typer.Option(help="The experiment's name; default: the recipe's.")] = None,
    workers: ElasticOption = "0",
    device: DeviceOption = "auto",
    set_: SetOption = None,
    seeds: SeedsOption = 1,
    fresh: FreshOption = False,
    profile: ProfileOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe, or go on with it. Finished stages are skipped, a stopped one resumes."""
    from multitask.data.maps import mapped
    from multitask.recipe_files import load_recipe

    overrides, span = [*(set_ or [])], workers_span(workers, device)
    if profile:
        overrides.append("defaults.profile=true")
    loaded = load_recipe(recipe, overrides, mapped(data))
    _run(loaded, data, storage, experiment, workers=span, seeds=seeds, fresh=fresh, quiet=quiet, as_json=as_json)


@app.command(epilog=SWEEP_EXAMPLES)
def sweep(
    recipe: RecipeArgument,
    stage: Annotated[str | None, typer.Option(help="The stage to sweep; default: the recipe's only swept one.")] = None,
    grid: Annotated[list[str] | None, typer.Option(help="Values to try: lr=1e-3,1e-4; repeatable.")] = None,
    random: Annotated[list[str] | None, typer.Option(help="A span to draw from: lr=1e-5..1e-3; repeatable.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Trials to draw with --random.")] = 8,
    by: Annotated[str | None, typer.Option(help="The dev metric that decides, such as sts/pearson.")] = None,
    asha: Annotated[bool, typer.Option(help="Stop trials that lag behind at the end of epochs 1, 3, 9, ...")] = False,
    data: DataOption = None,
    storage: StorageOption = "./runs",
    experiment: Annotated[
        str | None, typer.Option(help="Its name; default: RECIPE-sweep-STAGE, or the recipe's.")
    ] = None,
    workers: Annotated[str, typer.Option(metavar="N or MIN:MAX", help="Ray workers of each trial; 0: none.")] = "0",
    device: DeviceOption = "auto",
    set_: SetOption = None,
    seeds: SeedsOption = 1,
    fresh: FreshOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one stage with several settings. After what it starts from; names the best."""
    from multitask.data.maps import mapped
    from multitask.recipe_files import load_sweep

    settings = sweep_settings(grid or [], random or [], samples, by, asha)
    loaded, stage = load_sweep(recipe, set_, stage, settings, mapped(data))
    name = experiment or (f"{loaded.name}-sweep-{stage}" if settings else loaded.name)
    span = workers_span(workers, device)
    _run(loaded, data, storage, name, workers=span, seeds=seeds, fresh=fresh, quiet=quiet, as_json=as_json)


def _run(
    recipe: Recipe,
    data: str | None,
    storage: str,
    experiment: str | None,
    *,
    workers: Workers,
    seeds: int,
    fresh: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Trains and tells; with --json the document is what results.json holds."""
    with uncollected():
        from multitask.recipe import NAME
        from multitask.storage import Storage
        from ray_jobs.commands import run_training, tell_results
        from ray_jobs.screen import Screen

    name = experiment or recipe.name
    if not re.fullmatch(NAME, name) or name == "cache":
        raise UserError(f"--experiment '{name}': letters, digits, '.', '_' and '-', and not 'cache', which is taken")
    place = Storage(storage)
    with Screen(quiet=quiet, as_json=as_json) as screen:
        results = run_training(recipe, data, place, name, screen, workers=workers, fresh=fresh, seeds=seeds)
        if results is None:
            raise typer.Exit(INTERRUPTED)
        if as_json:
            screen.document(results)
        else:
            tell_results(screen, place, results)


@app.command()
def evaluate(
    bundle: BundleArgument,
    data: DataOption = None,
    split: Annotated[str, typer.Option(help="train or dev.", autocompletion=words("train", "dev"))] = "dev",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Exact metrics of a bundle, with 95 % bootstrap intervals."""
    from ray_jobs.bundles import evaluate_bundle
    from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        evaluate_bundle(bundle, data, split, screen)


@data_app.command("check")
def data_check(
    uri: Annotated[str, typer.Argument(help="A directory, its URI, or a map (YAML).")], as_json: JsonOption = False
) -> None:
    """Counts, label balance, lengths and quarantined rows of a data directory."""
    from multitask.data.check import check_data, render
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        reports = check_data(uri)
        if as_json:
            screen.document([report.to_json() for report in reports])
        else:
            screen.say(render(reports))


@app.command()
def report(
    experiment: Annotated[str, typer.Argument(help="An experiment's folder or URI: <storage>/<experiment>.")],
    as_json: JsonOption = False,
) -> None:
    """Write an experiment's report.html and report.md. Tables, curves, what each stage cost the other tasks."""
    from multitask.report import write_report
    from ray_jobs.screen import Screen

    with Screen(as_json=as_json) as screen:
        places = write_report(experiment)
        if as_json:
            screen.document({"reports": places})
        else:
            screen.say("\n".join(f"report: {place}" for place in places))


@app.command()
def doctor(
    storage: Annotated[str | None, typer.Option(help="The directory or URI that a run would be given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine and a storage are fit for. A line each; exit status 2 where something will not work."""
    from ray_jobs.doctor import examine
    from ray_jobs.screen import Screen

    findings = []
    with Screen(as_json=as_json) as screen:
        for finding in examine(storage):
            findings.append(finding)
            screen.say(finding.line())
        if as_json:
            screen.document([vars(finding) for finding in findings])
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(USER_ERROR)


def _behind(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an exit was made of such an error, by typer or rich."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _leave(status: int) -> None:
    """Exits; past Ray's own end of the process where one of its calls was given up (ray_jobs/stopping.py)."""
    if waits_for_ray():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main() -> None:
    """Exit status 0; 2 for what the user can mend, one line; 1 for a failure; 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without a sign gets its escape, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="minibert")
    except UserError as error:
        print(f"minibert: {error}", file=sys.stderr)
        _leave(USER_ERROR)
    except ModuleNotFoundError as error:
        if (extra := EXTRAS.get(error.name or "")) is None:
            _fail(error)
        print(f"minibert: {error.name} is not installed: pip install 'minibert-multitask[{extra}]'", file=sys.stderr)
        _leave(USER_ERROR)
    except SystemExit as end:
        if end.code == INTERRUPTED and _behind(end, KeyboardInterrupt):
            print("minibert: interrupted; the same command goes on where it was", file=sys.stderr)
        if _behind(end, BrokenPipeError):
            print("minibert: stopped: nothing reads its output any more", file=sys.stderr)
        _leave(end.code if isinstance(end.code, int) else int(bool(end.code)))
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> None:
    """Status 1, the traceback in a file."""
    with tempfile.NamedTemporaryFile("w", prefix="minibert-", suffix=".log", delete=False) as file:
        file.write(traceback.format_exc())
    print(f"minibert: {type(error).__name__}: {error}\ntraceback in {Path(file.name)}", file=sys.stderr)
    _leave(1)
