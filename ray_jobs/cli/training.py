"""`minibert train` and `minibert sweep`. What a command needs is imported inside it, so that --help is quick."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ray_jobs.cli.shared import (
    DataOption,
    DeviceOption,
    ElasticOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    StorageOption,
    TrackOption,
    examples,
)
from ray_jobs.importing import uncollected
from ray_jobs.options import experiment_name, sweep_settings, workers_span
from ray_jobs.stopping import INTERRUPTED

if TYPE_CHECKING:
    from multitask.experiment.results import Rows
    from ray_jobs.driver.request import TrainingRequest

app = typer.Typer(rich_markup_mode=None)

TRAIN_EXAMPLES = examples(
    "minibert train demo",
    "minibert train demo --experiment short --set defaults.epochs=1",
    "minibert train bertaar/para-sts_cosine-sst_last --data DATA --workers 2",
    "minibert train my.yaml --data s3://bucket/data --storage s3://bucket/runs",
)

SWEEP_EXAMPLES = examples(
    "minibert sweep demo --stage sts --grid lr=1e-3,1e-4 --by sts/pearson",
    "minibert sweep sweeps/mlm --data DATA --workers 2",
)

ProfileOption = Annotated[
    bool, typer.Option("--profile", help="Trace some steps of each stage: its folder's profile/.")
]
SeedsOption = Annotated[
    int, typer.Option(min=1, help="Run with that many seeds, the recipe's and those after it; mean and deviation.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Supersede stages that differ from those under their names; nothing is deleted.")
]


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
    folds: Annotated[
        int,
        typer.Option(min=0, help="Train that many times; each row is in dev once. 0: once, on the files as they are."),
    ] = 0,
    fresh: FreshOption = False,
    profile: ProfileOption = False,
    track: TrackOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe, or go on with it. Finished stages are skipped, a stopped one resumes."""
    from multitask.recipe.data_maps import mapped
    from multitask.recipe.loading import load_recipe
    from multitask.storage.storage import Storage
    from ray_jobs.driver.request import TrainingRequest

    overrides, span = [*(set_ or [])], workers_span(workers, device)
    if profile:
        overrides.append("defaults.profile=true")
    loaded = load_recipe(recipe, overrides, mapped(data))
    name = experiment_name(experiment or loaded.name)
    request = TrainingRequest(loaded, data, Storage(storage), name, span, fresh, seeds, trackers=tuple(track or ()))
    if folds:
        _run_folds(request, folds, quiet, as_json)
    else:
        _run(request, quiet, as_json)


@app.command(epilog=SWEEP_EXAMPLES)
def sweep(
    recipe: RecipeArgument,
    stage: Annotated[str | None, typer.Option(help="The stage to sweep; default: the recipe's only swept one.")] = None,
    grid: Annotated[list[str] | None, typer.Option(help="Values to try: lr=1e-3,1e-4; repeatable.")] = None,
    random: Annotated[list[str] | None, typer.Option(help="A span to draw from: lr=1e-5..1e-3; repeatable.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Trials to draw with --random.")] = 8,
    by: Annotated[str | None, typer.Option(help="The dev metric that decides, such as sts/pearson.")] = None,
    asha: Annotated[
        bool, typer.Option("--asha", help="Stop trials that lag behind at the end of epochs 1, 3, 9, ...")
    ] = False,
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
    track: TrackOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one stage with several settings. After what it starts from; names the best."""
    from multitask.recipe.data_maps import mapped
    from multitask.recipe.loading import load_recipe, load_sweep
    from multitask.storage.storage import Storage
    from ray_jobs.driver.ray_job import after_sweep
    from ray_jobs.driver.request import TrainingRequest

    settings = sweep_settings(grid or [], random or [], samples, by, asha)
    loaded, stage = load_sweep(recipe, set_, stage, settings, mapped(data))
    name = experiment_name(experiment or (f"{loaded.name}-sweep-{stage}" if settings else loaded.name))
    options = [("--data", data, None), ("--storage", storage, "./runs"), ("--workers", workers, "0")]
    options += [("--device", device, "auto"), ("--seeds", str(seeds), "1")]
    words = ["train", recipe, "--experiment", name]
    words += [word for option, value, usual in options if value and value != usual for word in (option, value)]
    words += [word for override in set_ or [] for word in ("--set", override)]
    whole = load_recipe(recipe, set_, mapped(data))
    after = partial(after_sweep, whole, stage, by_recipe=not settings, words=words)
    span = workers_span(workers, device)
    request = TrainingRequest(loaded, data, Storage(storage), name, span, fresh, seeds, trackers=tuple(track or ()))
    _run(request, quiet, as_json, after)


def _run_folds(request: TrainingRequest, count: int, quiet: bool, as_json: bool) -> None:
    """Trains a fold after the other; with --json the document is what folds.json holds."""
    with uncollected():
        from ray_jobs.driver.folds import run_folds, tell_folds
        from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        found = run_folds(request, count, screen)
        if found is None:
            raise typer.Exit(INTERRUPTED)
        if as_json:
            screen.document(found)
        else:
            tell_folds(screen, found)


def _run(
    request: TrainingRequest, quiet: bool, as_json: bool, after: Callable[[Rows], str | None] = lambda rows: None
) -> None:
    """Trains and tells; with --json the document is what results.json holds. after: how to go on from those rows."""
    with uncollected():
        from ray_jobs.driver.driver import run_training
        from ray_jobs.driver.telling import tell_results
        from ray_jobs.screen import Screen

    with Screen(quiet=quiet, as_json=as_json) as screen:
        results = run_training(request, screen)
        if results is None:
            raise typer.Exit(INTERRUPTED)
        if as_json:
            screen.document(results)
        else:
            tell_results(screen, request.storage, results)
            if more := after(results["stages"]):
                screen.say(f"go on:       {more}")
