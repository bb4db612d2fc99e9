"""Sends an experiment to trackers, from what lies in its folder: while it is trained, or at any time after."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from multitask.errors import UserError, near
from multitask.experiment.events import SEED, event_files, shown_points
from multitask.experiment.experiment_file import RESULTS_FILE, Experiment
from multitask.experiment.records import read_records
from multitask.experiment.results import Rows, is_trial, leaves
from multitask.experiment.stage_job import BUNDLE, node_key
from multitask.storage.owners import kept_in
from multitask.storage.sealed import read_document
from multitask.storage.storage import Storage, file_at
from ray_jobs.trackers.base import Fact, Ledger, Stage, Tracker

SECONDS = 20.0  # from one look at the experiment's folder to the next
KINDS = ("mlflow", "wandb")
log = logging.getLogger(__name__)


def tracker_of(kind: str, experiment: Storage) -> Tracker:
    """The tracker of a name. Raises UserError for one that is not known or refuses, ModuleNotFoundError where its
    package is not installed."""
    if kind == "mlflow":
        from ray_jobs.trackers.mlflow import Mlflow

        return Mlflow()
    if kind == "wandb":
        from ray_jobs.trackers.wandb import Wandb

        return Wandb(Ledger(experiment, kind))
    raise UserError(f"tracker {kind}: valid: {', '.join(KINDS)}{near(kind, KINDS)}")


class Mirror:
    """Sends an experiment, beside whoever trains it, every some seconds and, as a context manager, at the end.

    A tracker that fails costs a warning and not the training; what it lacks is sent by the next call.
    """

    def __init__(self, experiment: Storage, trackers: Sequence[Tracker]) -> None:
        self.experiment, self.trackers = experiment, trackers
        self._seen: dict[str, Any] = {}  # trainer -> what its events were like when they were sent last
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._send_often, name="trackers", daemon=True)

    def __enter__(self) -> Mirror:
        if self.trackers:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.trackers:
            self._ending.set()
            self._thread.join()
            with self._told_of():
                self.send(to_the_end=True)

    def send(self, to_the_end: bool = False) -> None:
        """Sends what is new. to_the_end: bundles and the report too, of stages that have finished; returns when the
        trackers have all of it."""
        if not self.experiment.exists(RESULTS_FILE):
            return
        rows = [row for row in read_document(self.experiment, RESULTS_FILE)["stages"] if row["trainer"]]
        by_trainer = {row["trainer"]: row for row in sorted(rows, key=is_trial)}  # a best trial's row is the run's
        stages = _stages(self.experiment, list(by_trainer.values()))
        for trainer, stage in stages.items():
            self._send_facts(stage, self.experiment.at(trainer))
        if to_the_end:
            for row in (row for row in rows if row["status"] == "finished" and not is_trial(row)):
                self._attach(stages[row["trainer"]], BUNDLE, self.experiment.at(row["trainer"]).at(BUNDLE))
            self._attach_report(stages, rows)
            for tracker in self.trackers:
                tracker.close()

    def _send_facts(self, stage: Stage, folder: Storage) -> None:
        like = [stage.status, *((name, folder.size(name)) for name in event_files(folder))]
        if self._seen.get(stage.trainer) != like:
            facts = facts_of(folder)
            for tracker in self.trackers:
                tracker.send(stage, facts)
            self._seen[stage.trainer] = like

    def _attach(self, stage: Stage, name: str, folder: Storage) -> None:
        with tempfile.TemporaryDirectory(prefix=kept_in("tracked")) as local:
            for file in folder.list():
                (Path(local) / file).write_bytes(folder.read_bytes(file))
            for tracker in self.trackers:
                tracker.attach(stage, name, Path(local))

    def _attach_report(self, stages: Mapping[str, Stage], rows: Rows) -> None:
        """Attaches the report to the stages that no other starts from, once all have finished."""
        if all(row["status"] == "finished" for row in rows if not is_trial(row)):
            from multitask.report import write_report  # brings matplotlib

            with tempfile.TemporaryDirectory(prefix=kept_in("tracked")) as local:
                for place in write_report(self.experiment.uri):
                    folder, name = file_at(place)
                    (Path(local) / name).write_bytes(folder.read_bytes(name))
                for row in leaves(rows):
                    for tracker in self.trackers:
                        tracker.attach(stages[row["trainer"]], "report", Path(local))

    def _send_often(self) -> None:
        while not self._ending.wait(SECONDS):
            with self._told_of():
                self.send()

    @contextmanager
    def _told_of(self) -> Iterator[None]:
        """Within it, an error is a warning: training need not stop for a curve."""
        try:
            yield
        except Exception as error:
            names = " and ".join(tracker.name for tracker in self.trackers)
            log.warning(
                "%s: not all was sent: %s: %s; `minibert track %s` sends the rest",
                names, type(error).__name__, error, self.experiment.uri,
            )  # fmt: skip


def facts_of(folder: Storage) -> list[Fact]:
    """What a trainer has told so far, by steps; dev metrics with all their digits, which TensorBoard's events lack."""
    records = read_records(folder)
    exact = {(f"dev/{name}", record.steps): value for record in records for name, value in record.metrics.items()}
    found = [
        Fact(tag, steps, exact.get((tag, steps)) or point.value, point.time)
        for (tag, steps), point in shown_points(folder).items()
        if point.value is not None
    ]
    return sorted(found, key=lambda fact: (fact.steps, fact.tag))


def _stages(experiment: Storage, rows: Rows) -> dict[str, Stage]:
    """Trainer -> its stage."""
    storage, name = file_at(experiment.uri)
    records = Experiment(storage, name).stages
    several = len({row["seed"] for row in rows}) > 1
    found = {}
    for row in rows:
        called = row["name"].replace("@", " ") + (f"{SEED}{row['seed']}" if several else "")
        content = records[node_key(row["name"], row["variant"])].content
        said = flat(content.get("stage", {})) | {"seed": f"{row['seed']}", "from": f"{row['from']}"}
        found[row["trainer"]] = Stage(name, row["trainer"], called, row["status"], said)
    return found


def flat(tree: Any, key: str = "") -> dict[str, str]:
    """A tree's leaves by their paths, `average.ema`; lists are leaves."""
    if not isinstance(tree, Mapping):
        return {key: f"{tree}"}
    below = (flat(value, f"{key}.{name}".strip(".")) for name, value in tree.items())
    return {path: value for found in below for path, value in found.items()}
