"""What a tracker is, and what it is given of a trained stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from multitask.storage.sealed import read_document, write_document
from multitask.storage.storage import Storage

ENDS = ("finished", "failed", "stopped", "interrupted")  # a stage's status once nothing trains it


@dataclass(frozen=True)
class Fact:
    """A scalar of a run."""

    tag: str
    steps: int
    value: float
    time: float
    """When it was told, seconds since 1970."""


@dataclass(frozen=True)
class Stage:
    """A stage, or a sweep's trial, as a tracker's run has it."""

    experiment: str
    trainer: str
    """What names the run for good: a resumed stage has the trainer's name that it had before."""
    name: str
    """What people read: the stage's name, `sts lr=0.001 seed=11711`."""
    status: str
    """Its status in results.json: running, finished, failed, stopped, interrupted."""
    parameters: Mapping[str, str]
    """Setting -> its value."""

    @property
    def has_ended(self) -> bool:
        return self.status in ENDS


class Tracker(Protocol):
    """Who keeps curves. Every method may be called again with what it was given before: nothing is kept twice."""

    name: str

    def send(self, stage: Stage, facts: Sequence[Fact]) -> None:
        """Sends those of the facts that the stage's run has not. facts: all there are so far, by steps."""

    def attach(self, stage: Stage, name: str, folder: Path) -> None:
        """Keeps a folder's files with the stage's run, under a name."""

    def close(self) -> None:
        """Returns when all is sent."""


class Ledger:
    """What was sent of an experiment to a tracker that cannot be asked: a small file beside results.json."""

    def __init__(self, experiment: Storage, tracker: str) -> None:
        self.experiment, self.path = experiment, f"tracked-{tracker}.json"
        self.sent: dict[str, dict[str, int]] = {}  # trainer -> `steps` up to which all is sent, and the names attached
        if experiment.exists(self.path):
            self.sent = read_document(experiment, self.path)["sent"]

    def note(self, trainer: str, **facts: int) -> None:
        """Writes down what has been sent of a trainer."""
        self.sent[trainer] = self.sent.get(trainer, {}) | facts
        write_document(self.experiment, self.path, {"schema": 1, "sent": self.sent})
