"""What a report is made from: an experiment's results.json, experiment.json, recipe.yaml, metrics and events."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
from pydantic import ValidationError

from multitask.errors import UserError, well_formed
from multitask.experiment.events import CONFLICT, Points, event_files, shown_points
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.records import Record, read_records
from multitask.experiment.results import Rows, leaves
from multitask.experiment.stage_job import read_outcome
from multitask.recipe.parsing import parse_yaml
from multitask.recipe.settings import PaperTable
from multitask.recipe.sweeps import stage_of
from multitask.report.cost import Spent, spent_in
from multitask.report.numbers import ordered
from multitask.storage.sealed import Damaged, read_document
from multitask.storage.storage import Storage, file_at
from multitask.storage.uris import join

log = logging.getLogger(__name__)
ENCODER = "encoder"  # the row of results.json before any training
LOSS = "train/loss"  # and train/loss_<task> where a stage trains several tasks
Curve = list[tuple[int, float]]  # (step, value)


@dataclass(frozen=True)
class Run:
    """One row of results.json with what its trainer's folder holds; the same stage under several seeds is several.

    start: what it starts from (`from`). tasks: those that the recipe's stage trains.
    measured: (epoch, dev metrics) in order. losses: event tag -> curve. conflicts: (two tasks, part of the encoder) ->
    the cosines between the tasks' gradients, where the stage measured them. looks: task -> a closer look at its dev
    set (measure/looks.py), of stages that have finished.
    """

    name: str
    variant: int
    start: str | None
    row: dict[str, Any]
    fingerprint: str = ""
    tasks: tuple[str, ...] = ()
    measured: tuple[tuple[int, dict[str, float | None]], ...] = ()
    losses: dict[str, Curve] = field(default_factory=dict)
    conflicts: dict[tuple[str, str], Curve] = field(default_factory=dict)
    looks: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float | None]:
        found: dict[str, float | None] = self.row["metrics"]
        return found

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        return {metric: (low, high) for metric, (low, high) in (self.row.get("intervals") or {}).items()}

    @property
    def finished(self) -> bool:
        return self.row["status"] in ("finished", "measured")


@dataclass(frozen=True)
class Evidence:
    """An experiment as it lies in its folder at `place`; its recipe with all that was left to the defaults."""

    place: str
    results: dict[str, Any]
    recipe: dict[str, Any]
    runs: list[Run]
    tables: list[PaperTable]
    spent: list[Spent]

    @property
    def rows(self) -> Rows:
        """The rows of results.json, one a run."""
        return [run.row for run in self.runs]

    @cached_property
    def metrics(self) -> list[str]:
        return ordered(metric for run in self.runs for metric in run.metrics)

    @cached_property
    def stages(self) -> dict[str, list[Run]]:
        """Runs by stage, in order; `encoder` first."""
        return {
            name: [run for run in self.runs if run.name == name] for name in dict.fromkeys(r.name for r in self.runs)
        }

    def parent(self, run: Run) -> Run | None:
        """The run that a run started from, under the same seed; None where that is a foreign bundle."""
        same = (other for other in self.runs if (other.name, other.variant) == (run.start, run.variant))
        return next(same, None)

    def before(self, run: Run) -> dict[str, float | None]:
        """The metrics of what the run started from: its parent's, or what it measured itself before training."""
        parent = self.parent(run)
        return parent.metrics if parent else dict(run.measured).get(0, {})

    def final(self) -> dict[str, list[Run]]:
        """The finished stages that no other stage starts from."""
        final = [(row["name"], row["variant"]) for row in leaves(self.rows)]
        found = {name: [run for run in runs if (name, run.variant) in final] for name, runs in self.stages.items()}
        return {name: runs for name, runs in found.items() if runs}


def read_evidence(folder: Storage) -> Evidence:
    """Reads all that a report says of the experiment in a folder. Raises UserError where there is none."""
    if not folder.exists("results.json"):
        raise UserError(
            f"experiment '{folder.uri}': no results.json there; give the folder that `minibert train` wrote to, "
            "<storage>/<experiment>, after its first stage has started"
        )
    results = _results(folder)
    made = experiment_in(folder)
    made.check_results(results)
    recipe = _recipe(folder, made)
    with well_formed(join(folder.uri, "recipe.yaml")):
        trained = {stage["name"]: tuple(stage.get("tasks") or ()) for stage in recipe.get("stages", [])}
    prints = _fingerprints(made)
    rows = _with_sweeps(results["stages"], recipe)
    runs = [_run(folder, row, prints, trained.get(stage_of(row["name"]), ())) for row in rows]
    tables, spent = _paper_tables(recipe, join(folder.uri, "recipe.yaml")), spent_in(folder, made, rows)
    return Evidence(folder.uri, results, recipe, runs, tables, spent)


def _results(folder: Storage) -> dict[str, Any]:
    """results.json, as its schema has it."""
    import jsonschema

    schema = json.loads((resources.files("multitask") / "assets" / "results.schema.json").read_text())
    try:
        results = read_document(folder, "results.json")
        jsonschema.validate(results, schema)
    except (ValueError, RecursionError, jsonschema.ValidationError) as error:
        at = f" {error.json_path}:" if isinstance(error, jsonschema.ValidationError) else ""
        said = getattr(error, "message", str(error))[:200]
        raise UserError(f"{join(folder.uri, 'results.json')}: not an experiment's results:{at} {said}") from error
    return results


def _with_sweeps(rows: list[dict[str, Any]], recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with what their sweeps came to, for results.json of builds that did not say it in the rows."""
    by = {stage["name"]: (stage.get("sweep") or {}).get("by", "") for stage in recipe.get("stages", [])}
    sweeps: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        if (stage := stage_of(row["name"])) != row["name"]:
            unknown = {"stage": stage, "by": by.get(stage, ""), "trials": [], "best": None}
            sweeps.setdefault((stage, row["variant"]), unknown)["trials"].append(row["name"])
    trainers = {(row["name"], row["variant"]): row["trainer"] for row in rows}
    for (stage, variant), sweep in sweeps.items():
        chosen = trainers.get((stage, variant))
        sweep["best"] = next((name for name in sweep["trials"] if chosen and trainers[name, variant] == chosen), None)
    return [{"sweep": sweeps.get((stage_of(row["name"]), row["variant"])), **row} for row in rows]


def experiment_in(folder: Storage) -> Experiment:
    storage, name = file_at(folder.uri)
    return Experiment(storage, name)


def _recipe(folder: Storage, made: Experiment) -> dict[str, Any]:
    """recipe.yaml's tree; empty where there is none. Raises Damaged where it is not what the driver wrote."""
    if not folder.exists("recipe.yaml"):
        return {}
    where, data = join(folder.uri, "recipe.yaml"), folder.read_bytes("recipe.yaml")
    if made.recipe and hashlib.sha256(data).hexdigest() != made.recipe:
        raise Damaged(f"{where}: damaged: not what this experiment's last run wrote; the same command writes it again")
    with well_formed(where):
        tree = parse_yaml(data.decode(), where)
    return tree if isinstance(tree, dict) else {}


def _fingerprints(made: Experiment) -> dict[str, str]:
    """Trainer name -> fingerprint; a best trial's own, which is there before that of the stage it stands for."""
    return {record.trainer: record.fingerprint for record in reversed(made.stages.values())}


def _paper_tables(recipe: dict[str, Any], where: str) -> list[PaperTable]:
    tables = recipe.get("tables") or []
    if not isinstance(tables, list):
        raise UserError(f"{where}: tables: {tables!r} is no list")
    try:
        return [PaperTable.model_validate(tree) for tree in tables]
    except ValidationError as error:
        raise UserError(f"{where}: tables: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error


def _run(folder: Storage, row: dict[str, Any], fingerprints: dict[str, str], tasks: tuple[str, ...]) -> Run:
    run = Run(row["name"], row["variant"], row["from"], row, tasks=tasks)
    if not row["trainer"]:
        return run
    home = folder.at(row["trainer"])
    records = read_records(home)
    measured = tuple((record.epoch, record.metrics) for record in records)
    curves = _curves(home, records[-1] if records and run.finished else None)
    losses = {tag: curve for tag, curve in curves.items() if tag.startswith(LOSS)}
    parted = [(tag.split("/"), curve) for tag, curve in curves.items() if tag not in losses]
    conflicts = {(pair, part): curve for (_, pair, part), curve in parted}
    fingerprint = fingerprints.get(row["trainer"], "")
    outcome = read_outcome(home) if run.finished else None
    looks = (outcome or {}).get("dev", {})  # stages of older builds have none
    return replace(run, fingerprint=fingerprint, measured=measured, losses=losses, conflicts=conflicts, looks=looks)


def _curves(home: Storage, last: Record | None) -> dict[str, Curve]:
    """The training losses and the conflicts between tasks in a trainer's event files, by their tags.

    last: what a finished run's curves end with. Where these do not, all are left out, with a warning: TensorBoard stops
    reading at the first event whose checksum is wrong, and says nothing; or another run's lie there, or they could not
    be copied.
    """
    points = shown_points(home)
    if points and last and not _ends_with(points, last):
        files = ", ".join(join(home.uri, name) for name in event_files(home))
        log.warning("%s: damaged, cut or another run's: no dev metrics of step %d; left out", files, last.steps)
        return {}
    curves: dict[str, Curve] = {}
    for (tag, step), point in sorted(points.items()):
        if point.value is not None and (tag == LOSS or tag.startswith((f"{LOSS}_", f"{CONFLICT}/"))):
            curves.setdefault(tag, []).append((step, point.value))
    return curves


def _ends_with(points: Points, last: Record) -> bool:
    """Whether the dev metrics of that record stand in the events, which are of 32 bits."""
    measured = {f"dev/{name}": value for name, value in last.metrics.items() if value is not None}
    told = {tag: point.value for (tag, step), point in points.items() if step == last.steps}
    return all(told.get(tag) == float(np.float32(value)) for tag, value in measured.items())
