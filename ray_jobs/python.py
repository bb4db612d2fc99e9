"""`multitask.train`: experiments from Python and notebooks. Ctrl-C saves and stops, and the same call goes on."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.data.files import local
from multitask.data.objects import arrow_of
from multitask.errors import UserError, shown
from multitask.experiment.results import is_trial
from multitask.recipe.data_maps import mapped
from multitask.recipe.loading import read_recipe_file, recipe_of
from multitask.recipe.parsing import parse_yaml
from multitask.recipe.stages import Recipe
from multitask.storage.storage import Storage
from multitask.storage.uris import join
from ray_jobs.driver.driver import run_training
from ray_jobs.driver.folds import run_folds
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import experiment_name, workers_span
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest

if TYPE_CHECKING:
    import pandas as pd

    from multitask.api import Model

TABLES = "cache/tables"  # where in the storage tables lie that were given as objects
ARGUMENTS = {"fresh": "fresh=True", "set": "overrides", "track": "trackers"}  # where an option's name is another
_OPTION = re.compile(r"--([a-z]+)\b")
SPLITS = ("train", "dev", "test")
Data = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]


def train(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any],
    data: Data | None = None,
    *,
    storage: str | os.PathLike[str] = "./runs",
    experiment: str | None = None,
    workers: int | str = 0,
    device: str = "auto",
    seeds: int = 1,
    fresh: bool = False,
    overrides: str | Sequence[str] = (),
    trackers: Sequence[str] = (),
    quiet: bool = False,
) -> Trained:
    """Trains a recipe's stages, or goes on with them: what has finished is skipped, what was stopped resumes.

    recipe: a Recipe, a YAML file's path, a packaged recipe's name, or the tree that a YAML file holds.
    data: a directory, its URI or a data map's path; or task -> split (`train`, `dev`, `test`) -> a file's path or
        URI, a pandas frame, a datasets.Dataset, a pyarrow table or a list of dicts.
    storage: the folder or URI below which experiments lie. experiment: its name there, the recipe's unless given.
    workers: Ray workers, a number or "MIN:MAX"; 0 trains in this process. device: auto, cpu or gpu.
    seeds: how many are trained, the recipe's and those after it. fresh: whether stages that differ from those under
        their names supersede them. overrides: settings such as "stages.sts.lr=3e-5", one or several. trackers: mlflow,
        wandb. quiet: no progress is shown.

    Raises UserError, one line, for what the caller can mend, and KeyboardInterrupt, with all saved, where Ctrl-C asked
    to stop; twice stops at once, from the newest checkpoint on.
    """
    if seeds < 1:
        raise UserError(f"seeds: {seeds}: at least 1")
    call = _Call(recipe, data, storage, overrides)
    with call.told():
        asked = call.request(experiment, workers, device, trackers, fresh=fresh, seeds=seeds)
        with Screen(quiet=quiet) as screen:
            results = run_training(asked, screen, _Stop("the same call goes on"))
        return Trained(asked.storage.at(asked.experiment).uri, _finished(results))


def cross_validate(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any],
    data: Data | None = None,
    folds: int = 5,
    *,
    storage: str | os.PathLike[str] = "./runs",
    experiment: str | None = None,
    workers: int | str = 0,
    device: str = "auto",
    overrides: str | Sequence[str] = (),
    trackers: Sequence[str] = (),
    quiet: bool = False,
) -> Folds:
    """Trains a recipe once for each fold of its training rows, which is dev then, or goes on with it.

    folds: how many, at least 2. Everything else, and what is raised, is as `train` has it; a task needs no dev.
    """
    if not isinstance(folds, int):
        raise UserError(f"folds: {shown(folds)}: a whole number, at least 2")
    call = _Call(recipe, data, storage, overrides)
    with call.told():
        asked = call.request(experiment, workers, device, trackers, folds=True)
        with Screen(quiet=quiet) as screen:
            found = run_folds(asked, folds, screen, _Stop("the same call goes on"))
        return Folds(asked.storage.at(f"{asked.experiment}-folds").uri, _finished(found))


class _Call:
    """What a caller gave: the recipe with its data, and the files that tables are kept in."""

    def __init__(self, recipe: Any, data: Data | None, storage: Any, overrides: str | Sequence[str]) -> None:
        self.recipe, self.data, self.storage = recipe, data, Storage(os.fspath(storage))
        self.overrides = [overrides] if isinstance(overrides, str) else overrides
        self.files = _files(self.storage, data) if isinstance(data, Mapping) else {}

    def request(
        self,
        experiment: str | None,
        workers: int | str,
        device: str,
        trackers: Sequence[str],
        fresh: bool = False,
        seeds: int = 1,
        folds: bool = False,
    ) -> TrainingRequest:
        valid, given = "a path, a URI, or a dict of tasks and their splits", self.data
        uri = None if given is None or isinstance(given, Mapping) else _path(given, "data", valid)
        loaded = _recipe(self.recipe, self.overrides, self.files, uri)
        _check_splits(self.files, loaded, dev=not folds)
        name, span = experiment_name(experiment or loaded.name), workers_span(str(workers), device)
        told = tuple(trackers)
        return TrainingRequest(loaded, uri, self.storage, name, span, fresh, seeds, trackers=told, own_process=False)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around a call: raises KeyboardInterrupt where the user stopped at once, and UserErrors that call options and
        tables as the caller has them: not as a command does, and not as the files that the tables are kept in."""
        try:
            yield
        except _StopNow:
            raise KeyboardInterrupt("stopped; the same call goes on from the newest checkpoint") from None
        except UserError as error:
            said = _OPTION.sub(lambda found: ARGUMENTS.get(found[1], found[1]), str(error))
            for task, splits in self.files.items():
                for split, file in splits.items():
                    if isinstance(file, str) and file is not self.data[task][split]:  # type: ignore[index]
                        said = said.replace(file, f"data['{task}']['{split}']")
            raise type(error)(said) from error


def _finished(results: dict[str, Any] | None) -> dict[str, Any]:
    """What came of it. Raises KeyboardInterrupt where the user stopped it."""
    if results is None:
        raise KeyboardInterrupt("stopped; what was saved is safe, and the same call goes on")
    return results


class _StopNow(BaseException):
    """Ends the call at once. Lightning, which ends the process at a KeyboardInterrupt, lets it pass."""


class _Stop(StopRequest):
    """Leaves the process alive, which is a notebook's, where Ctrl-C comes twice."""

    def at_once(self) -> None:
        raise _StopNow


def _recipe(recipe: Any, overrides: Sequence[str], files: Mapping[str, Any], data: str | None) -> Recipe:
    if isinstance(recipe, Recipe | Mapping):
        tree, where = recipe.tree() if isinstance(recipe, Recipe) else recipe, "recipe"
    else:
        text, where = read_recipe_file(_path(recipe, "recipe", "a Recipe, a YAML file's path, a packaged one's name"))
        tree = parse_yaml(text, where)
    return recipe_of(dict(tree) if isinstance(tree, Mapping) else tree, where, overrides, mapped(data), files)


def _path(given: Any, name: str, valid: str) -> str:
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{name} is {shown(given)}; valid: {valid}")
    return os.fspath(given)


def _check_splits(files: Mapping[str, Any], recipe: Recipe, dev: bool) -> None:
    """Raises UserError where data lack a split. dev: whether one is needed beside train."""
    trained = {task for stage in recipe.stages for task in stage.tasks}
    for task in files:
        if dev and not recipe.tasks[task].files("dev"):
            raise UserError(
                f"data['{task}'] has no 'dev', which every task is measured on; "
                f"Task(split=Split(dev=0.2)) makes it of a part"
            )
        if task in trained and not recipe.tasks[task].train:
            raise UserError(f"data['{task}'] has no 'train', which a stage learns from")


def _files(storage: Storage, data: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Task -> split -> the path or URI of its file; tables are put into the storage, by their content."""
    found: dict[str, dict[str, Any]] = {}
    for task, splits in data.items():
        if not isinstance(splits, Mapping):
            raise UserError(f"data['{task}'] is {shown(splits)}; valid: a dict of {', '.join(SPLITS)}")
        if strange := [split for split in splits if split not in SPLITS]:
            raise UserError(f"data['{task}']['{strange[0]}']: no such split; valid: {', '.join(SPLITS)}")
        found[task] = {split: _file(storage, f"data['{task}']['{split}']", table) for split, table in splits.items()}
    return found


def _file(storage: Storage, where: str, table: Any) -> Any:
    """A file's path or URI as it was given, or those of several, with shares or without; else that of the table in the
    storage."""
    if isinstance(table, str | os.PathLike):
        return os.fspath(table)
    if isinstance(table, list) and table and all(isinstance(item, str) for item in table):
        return table
    if isinstance(table, Mapping) and all(isinstance(share, int | float) for share in table.values()):
        return {os.fspath(path): float(share) for path, share in table.items()}
    content = arrow_of(table, where)
    path = f"{TABLES}/{hashlib.sha256(content).hexdigest()[:32]}.arrow"
    if not storage.exists(path):
        storage.write_bytes(path, content)
    uri = join(storage.uri, path)
    return str(Path(uri).absolute()) if storage.is_local else uri


@dataclass(frozen=True)
class TrainedStage:
    """A stage of an experiment, under one seed."""

    name: str
    seed: int
    bundle: str
    """Where its bundle lies, for `load_bundle` and every command."""
    metrics: Mapping[str, float | None]
    """Dev metric -> value; None where it is undefined."""
    intervals: Mapping[str, Sequence[float]]
    """Dev metric -> its 95 % bootstrap interval."""
    seconds: float
    """Training time, without measuring."""


class Trained:
    """What `train` gives: an experiment whose stages have finished.

    uri: where the experiment lies. results: what its results.json holds.
    """

    def __init__(self, uri: str, results: Mapping[str, Any]) -> None:
        self.uri, self.results = uri, results
        rows = [row for row in results["stages"] if row["status"] == "finished" and row["bundle"] and not is_trial(row)]
        self.stages = [_stage(uri, row) for row in rows]

    def __repr__(self) -> str:
        last = self.stages[-1]
        scores = ", ".join(f"{name} {value:.3f}" for name, value in last.metrics.items() if value is not None)
        return f"<Trained {self.uri}: {last.name}: {scores}>"

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The last stage's dev metrics, of the last seed."""
        return self.stages[-1].metrics

    @cached_property
    def bundle(self) -> Model:
        """The last stage's model, of the last seed, ready to be asked."""
        from multitask import load_bundle

        return load_bundle(self.stages[-1].bundle)

    def curves(self) -> pd.DataFrame:
        """A frame of every measurement of every stage: stage, seed, epoch, steps, and a column a dev metric."""
        import pandas as pd

        from multitask.experiment.records import read_records

        rows = [
            {"stage": stage.name, "seed": stage.seed, "epoch": record.epoch, "steps": record.steps, **record.metrics}
            for stage in self.stages
            for record in read_records(Storage(stage.bundle.rpartition("/")[0]))
        ]
        return pd.DataFrame(rows)

    def report(self) -> list[str]:
        """Writes the experiment's report, and returns where its pages lie."""
        from multitask.report import write_report

        return write_report(self.uri)

    def export(self, output: str | os.PathLike[str], format: str = "transformers", task: str | None = None) -> None:
        """Writes the last stage's model to a directory or URI that is not there yet, as `minibert export` does.

        format: transformers, sentence-transformers, cross-encoder or onnx. task: whose head a cross-encoder gets.
        """
        from ray_jobs.bundles.export import export_bundle

        with Screen() as screen:
            export_bundle(self.stages[-1].bundle, format, os.fspath(output), "float32", None, screen, task)


class Folds:
    """What `cross_validate` gives: an experiment for each fold.

    uri: where what is known of all of them lies. results: what its folds.json holds.
    """

    def __init__(self, uri: str, results: Mapping[str, Any]) -> None:
        self.uri, self.results = uri, results

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items() if value is not None)
        return f"<Folds {self.uri}: {self.results['folds']} folds: {said}>"

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The last final stage's dev metrics, the means over the folds."""
        last = list(self.results["stages"].values())[-1]
        return {name: facts["mean"] for name, facts in last.items()}

    def predictions(self, task: str) -> pd.DataFrame:
        """A frame of a task's rows: id, fold, what the model says that had not seen the row, and its label."""
        import pandas as pd

        files = self.results["out_of_fold"]
        if task not in files:
            raise UserError(f"task '{task}': no out-of-fold predictions; there are those of {', '.join(files)}")
        with local(files[task]) as file:
            return pd.read_csv(file, dtype={"id": str})


def _stage(uri: str, row: Mapping[str, Any]) -> TrainedStage:
    bundle = join(uri, row["bundle"])
    return TrainedStage(row["name"], row["seed"], bundle, row["metrics"], row["intervals"], row["seconds"])
