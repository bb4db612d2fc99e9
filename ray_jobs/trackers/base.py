"""What a tracker is, and what it is given of a trained stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

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

    @property
    def is_whole(self) -> bool:
        """Whether it will tell nothing more; one that was interrupted, or failed, may go on."""
        return self.status in ("finished", "stopped")


class Tracker(Protocol):
    """Who keeps curves. Every method may be called again with what it was given before: nothing is kept twice."""

    name: str

    def send(self, stage: Stage, facts: Sequence[Fact]) -> None:
        """Sends those of the facts that the stage's run has not. facts: all there are so far, by steps."""

    def has(self, stage: Stage, name: str, content: str) -> bool:
        """Whether the stage's run has what `attach` gave it under a name, and of that content."""

    def attach(self, stage: Stage, name: str, content: str, folder: Path) -> None:
        """Keeps a folder's files with the stage's run, under a name. content: a hash of them."""

    def close(self) -> None:
        """Returns when all is sent."""


class Ledger:
    """What was sent of an experiment to a tracker that cannot be asked: a small file beside results.json.

    It is read when it is first asked for, which is after whoever sends has the experiment for itself.
    """

    def __init__(self, experiment: Storage, tracker: str) -> None:
        self.experiment, self.path = experiment, f"tracked-{tracker}.json"

    @cached_property
    def sent(self) -> dict[str, dict[str, Any]]:
        """Trainer -> `steps`, up to which all is sent, and what is attached by name."""
        if not self.experiment.exists(self.path):
            return {}
        found: dict[str, dict[str, Any]] = read_document(self.experiment, self.path)["sent"]
        return found

    def note(self, trainer: str, **facts: Any) -> None:
        """Writes down what has been sent of a trainer."""
        self.sent[trainer] = self.sent.get(trainer, {}) | facts
        write_document(self.experiment, self.path, {"schema": 1, "sent": self.sent})
