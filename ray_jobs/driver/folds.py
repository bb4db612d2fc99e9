"""`minibert train --folds`: a recipe trained once for each fold of its rows, which is dev then."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from multitask.data.shards import Shards
from multitask.errors import UserError
from multitask.experiment.results import cell, seeds_cell, summary
from multitask.inference.submission import FOLDER
from multitask.recipe.data_maps import place_of_recipe
from multitask.recipe.settings import Split, Task
from multitask.recipe.stages import Recipe
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from multitask.tasks.labels import KINDS
from multitask.tasks.table import TaskSpec
from ray_jobs.driver.driver import run_training
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest

RESULT = "folds.json"


def run_folds(
    request: TrainingRequest, count: int, screen: Screen, stop: StopRequest | None = None
) -> dict[str, Any] | None:
    """Trains fold after fold, each an experiment of its own, so that finished ones are skipped when it is run again.

    Writes NAME-folds/folds.json, with each final stage's metrics, their means and deviations over the folds, and for
    each task that a final stage answers what was predicted of every row by the model that had not seen it. Returns what
    folds.json holds; None where the user stopped. Raises UserError for what folds cannot be made of.
    """
    check_folds(request, count)
    trained = []
    for fold in range(1, count + 1):
        name = f"{request.experiment}-fold-{fold}-of-{count}"
        recipe = with_fold(request.recipe, fold, count)
        screen.note(f"fold {fold} of {count}: {name}")
        results = run_training(replace(request, recipe=recipe, experiment=name), screen, stop)
        if results is None:
            return None
        trained.append(results)
    place = request.storage.at(f"{request.experiment}-folds")
    found: dict[str, Any] = {
        "schema": 1,
        "recipe": request.recipe.name,
        "folds": count,
        "experiments": [results["experiment"] for results in trained],
        "stages": {stage: summary_of(stage, trained) for stage in final_stages(request.recipe)},
    }
    found["out_of_fold"] = {
        task: join(place.uri, _gathered(place, request, task, stage, trained))
        for task, stage in answered(request.recipe).items()
    }
    place.write_json(RESULT, found)
    return found


def check_folds(request: TrainingRequest, count: int) -> None:
    """Raises UserError for a number of folds, or a recipe, of which none can be made."""
    if count < 2:
        raise UserError(f"--folds {count}: 2 or more; 0 trains once")
    if request.seeds > 1:
        raise UserError(f"--folds with --seeds {request.seeds}: each fold is trained with one seed; leave one out")
    if swept := [stage.name for stage in request.recipe.stages if stage.sweep]:
        raise UserError(f"--folds: stages.{swept[0]} is swept; sweep first, and train folds with what is best")
    for name in trained_tasks(request.recipe):
        if (split := request.recipe.tasks[name].split) and split.test:
            raise UserError(f"--folds: tasks.{name}.split.test: its rows would be trained on; leave it out")


def trained_tasks(recipe: Recipe) -> list[str]:
    """The tasks that some stage trains, in the recipe's order."""
    return [task for task in recipe.tasks if any(task in stage.tasks for stage in recipe.stages)]


def final_stages(recipe: Recipe) -> list[str]:
    """The stages that no other starts from."""
    return [stage.name for stage in recipe.stages if not recipe.children(stage)]


def answered(recipe: Recipe) -> dict[str, str]:
    """Task -> the last final stage whose model has a head for it that was trained."""
    found: dict[str, str] = {}
    for name in final_stages(recipe):
        for above in map(recipe.stage, recipe.line(name)):
            found |= {task: name for task in above.tasks if above.trains_head(task)}
    return found


def with_fold(recipe: Recipe, fold: int, count: int) -> Recipe:
    """The recipe whose trained tasks have that fold of their training files as dev, and the others to train on."""

    def folded(task: Task) -> Task:
        by = task.split.by if task.split else None
        return task.model_copy(update={"split": Split(fold=f"{fold}/{count}", by=by), "dev": None})

    tasks = {**recipe.tasks, **{name: folded(recipe.tasks[name]) for name in trained_tasks(recipe)}}
    return recipe.model_copy(update={"tasks": tasks})


def summary_of(stage: str, trained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metric -> a stage's values by fold, with their mean and deviation."""
    rows = [_row(results, stage) for results in trained]
    metrics = {}
    for name in dict.fromkeys(name for row in rows for name in row["metrics"]):
        values = [row["metrics"].get(name) for row in rows]
        known = [value for value in values if value is not None]
        over_all = summary(known) if len(known) == len(values) else None
        metrics[name] = {**(asdict(over_all) if over_all else {"mean": None, "sd": None, "n": 0}), "values": values}
    return metrics


def _row(results: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """A stage's row of results.json."""
    found: Mapping[str, Any] = next(row for row in results["stages"] if row["name"] == stage)
    return found


def _gathered(
    place: Storage, request: TrainingRequest, task: str, stage: str, trained: Sequence[Mapping[str, Any]]
) -> str:
    """Writes what was predicted of a task's rows, each by the fold's model that had not seen it: id, fold, prediction,
    label. Returns the path."""
    spec = request.recipe.specs[task]
    stem, title = spec.prediction
    path, content = f"out-of-fold/{task}.csv", io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["id", "fold", title, spec.label.column])
    for fold, results in enumerate(trained, start=1):
        row = _row(results, stage)
        file = join(results["experiment"], row["trainer"], FOLDER, f"{stem}-dev-output.csv")
        said = csv.reader(io.StringIO(request.storage.read_bytes(file).decode()), skipinitialspace=True)
        next(said)
        labels = _labels(with_fold(request.recipe, fold, len(trained)), request.data, spec)
        for (one, predicted), (known, label) in zip(said, labels, strict=True):
            if one.strip() != known:
                raise UserError(f"{file}: has {one.strip()} where {task}'s rows have {known}; they changed meanwhile")
            writer.writerow([known, fold, predicted.strip(), label])
    place.write_bytes(path, content.getvalue().encode())
    return path


def _labels(recipe: Recipe, data: str | None, spec: TaskSpec) -> Iterator[tuple[str, str]]:
    """Each dev row's id and label, written as predictions are."""
    place, written = place_of_recipe(recipe, data), KINDS[spec.label.kind].written
    columns = recipe.tasks[spec.name].columns
    with Shards.opened(place.find(spec, "dev"), spec, True, columns, recipe.max_bad_rows) as shards:
        for example in shards.examples():
            assert example.label is not None, "dev files have labels"
            yield example.id, written(example.label, spec.label)


def tell_folds(screen: Screen, found: Mapping[str, Any]) -> None:
    """Shows each final stage's metrics by fold, and their mean."""
    for stage, metrics in found["stages"].items():
        rows = [
            [f"{fold}", *(cell(facts["values"][fold - 1]) for facts in metrics.values())]
            for fold in range(1, found["folds"] + 1)
        ]
        rows.append(["mean", *(seeds_cell(facts["values"]) for facts in metrics.values())])
        screen.table(["fold", *metrics], rows, title=f"{found['recipe']}: {stage}, {found['folds']} folds")
    for task, path in found["out_of_fold"].items():
        screen.say(f"{task}: every row as the model that had not seen it predicts it: {path}")
