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

from multitask.bundle.bundle import weights_of
from multitask.errors import UserError, near
from multitask.experiment.events import SEED, event_files, shown_points
from multitask.experiment.experiment_file import RESULTS_FILE, Experiment
from multitask.experiment.records import read_records
from multitask.experiment.results import Rows, is_trial, leaves
from multitask.experiment.stage_job import BUNDLE, digest, node_key
from multitask.storage.owners import kept_in
from multitask.storage.sealed import read_document
from multitask.storage.storage import Storage, file_at
from ray_jobs.trackers.base import Fact, Ledger, Stage, Tracker

SECONDS = 20.0  # from one look at the experiment's folder to the next
END_SECONDS = 300.0  # for a look that is under way when the training ends
REPORT = "report"
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
    raise UserError(f"tracker '{kind}': valid: {', '.join(KINDS)}{near(kind, KINDS)}")


class Mirror:
    """Sends an experiment, beside whoever trains it, every some seconds and, as a context manager, at the end.

    Whoever enters it has the experiment for itself, or steps would be sent by two. A tracker that fails costs a warning
    and neither the training nor the others; what it lacks is sent by the next call.
    """

    def __init__(self, experiment: Storage, trackers: Sequence[Tracker]) -> None:
        self.experiment, self.trackers = experiment, trackers
        self._seen: dict[tuple[str, str], Any] = {}  # tracker, trainer -> its events when they were sent last
        self._warned: set[str] = set()
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
            self._thread.join(END_SECONDS)
            if self._thread.is_alive():
                log.warning("trackers: no answer in %g s; %s", END_SECONDS, self._how_to_go_on)
            else:
                self.send(to_the_end=True)

    def send(self, to_the_end: bool = False) -> bool:
        """Sends what is new, and returns whether all of it went. to_the_end: bundles and the report too, of stages that
        have finished; returns when the trackers have all."""
        return all([self._send_to(tracker, to_the_end) for tracker in self.trackers])

    def _send_to(self, tracker: Tracker, to_the_end: bool) -> bool:
        try:
            try:
                self._send_all(tracker, to_the_end)
            finally:
                if to_the_end:
                    tracker.close()
        except Exception as error:  # training need not stop for a curve
            said = f"{tracker.name}: not all was sent: {type(error).__name__}: {error}"
            if to_the_end or said not in self._warned:
                log.warning("%s; %s", said, self._how_to_go_on)
            self._warned.add(said)
            return False
        return True

    @property
    def _how_to_go_on(self) -> str:
        return f"`minibert track {self.experiment.uri}` sends the rest"

    def _send_all(self, tracker: Tracker, to_the_end: bool) -> None:
        if not self.experiment.exists(RESULTS_FILE):
            return
        rows = [row for row in read_document(self.experiment, RESULTS_FILE)["stages"] if row["trainer"]]
        by_trainer = {row["trainer"]: row for row in sorted(rows, key=is_trial)}  # a best trial's row is the run's
        stages = _stages(self.experiment, list(by_trainer.values()))
        for stage in stages.values():
            self._send_facts(tracker, stage)
        if to_the_end:
            for row in (row for row in rows if row["status"] == "finished" and not is_trial(row)):
                self._attach_bundle(tracker, stages[row["trainer"]])
            self._attach_report(tracker, stages, rows)

    def _send_facts(self, tracker: Tracker, stage: Stage) -> None:
        folder = self.experiment.at(stage.trainer)
        like = [stage.status, *((name, folder.size(name)) for name in event_files(folder))]
        if self._seen.get((tracker.name, stage.trainer)) != like:
            tracker.send(stage, facts_of(folder))
            self._seen[tracker.name, stage.trainer] = like

    def _attach_bundle(self, tracker: Tracker, stage: Stage) -> None:
        bundle = self.experiment.at(stage.trainer).at(BUNDLE)
        if not tracker.has(stage, BUNDLE, content := weights_of(bundle)):
            with _here(bundle, bundle.list()) as folder:
                tracker.attach(stage, BUNDLE, content, folder)

    def _attach_report(self, tracker: Tracker, stages: Mapping[str, Stage], rows: Rows) -> None:
        """Attaches the report to the stages that no other starts from, once all have finished; anew where another one
        has finished since."""
        content = digest([[row["name"], row["trainer"], row["status"]] for row in rows])
        last = [stages[row["trainer"]] for row in leaves(rows)]
        wanting = [stage for stage in last if not tracker.has(stage, REPORT, content)]
        if wanting and all(row["status"] == "finished" for row in rows if not is_trial(row)):
            from multitask.report import write_report  # brings matplotlib

            with _here(self.experiment, [file_at(place)[1] for place in write_report(self.experiment.uri)]) as folder:
                for stage in wanting:
                    tracker.attach(stage, REPORT, content, folder)

    def _send_often(self) -> None:
        while not self._ending.wait(SECONDS):
            self.send()


@contextmanager
def _here(storage: Storage, names: Sequence[str]) -> Iterator[Path]:
    """A folder of this machine with those files of a storage."""
    with tempfile.TemporaryDirectory(prefix=kept_in("tracked")) as local:
        for name in names:
            (Path(local) / name).write_bytes(storage.read_bytes(name))
        yield Path(local)


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
