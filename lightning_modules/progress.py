"""What a running stage says of itself, and how it is asked to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from multitask.recipe.stages import Stage


class Interrupted(RuntimeError):
    """The stage was asked to stop, has saved its checkpoint, and goes on when it is started again."""


@dataclass(frozen=True)
class Progress:
    """One line's worth of what a running stage does."""

    stage: str
    doing: str
    """What is counted: `step`, or `dev quora` say."""
    epoch: int
    epochs: int
    """The stage's epochs; 0 where the progress is of no stage."""
    done: int
    """Steps or examples that are done."""
    total: int
    """How many there are in all; 0 where that is not known."""
    loss: float | None = None
    speed: float | None = None
    """Examples a second."""
    left: float | None = None
    """Seconds to the stage's end, as far as training goes."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, posted: dict[str, Any]) -> Progress:
        """The progress in what a worker posted, under the stage's name that came with it."""
        facts = dict(posted)
        facts.pop("label", "")
        shown = facts.pop("shown", "")
        return cls(**{**facts, "stage": shown or facts["stage"]})

    def line(self) -> str:
        epoch = [f"epoch {self.epoch}/{self.epochs}"] if self.epochs else []
        of = f"/{self.total}" if self.total else ""
        parts = [self.stage, *epoch, f"{self.doing} {self.done}{of}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.speed is not None:
            parts.append(f"{self.speed:.1f} examples/s")
        if self.left is not None:
            parts.append(f"{clock(self.left)} left")
        return "  ".join(parts)


def clock(seconds: float) -> str:
    """A time as clocks show it, 1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# Takes a progress line; returns whether the stage is asked to stop.
Report = Callable[[Progress], bool]


class Throttle:
    """Passes on a report every `every` seconds at most, and remembers a request to stop."""

    def __init__(self, report: Report, every: float = 1.0) -> None:
        self.report, self.every = report, every
        self.stop, self._last = False, 0.0

    def mute(self) -> None:
        """Reports nothing from now on, on the ranks that are not rank 0."""
        self.report = lambda progress: False

    def __call__(self, progress: Progress, now: bool = False) -> None:
        if now or time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            self.stop = self.report(progress) or self.stop

    def counter(
        self, stage: Stage, doing: str, epoch: int, total: int, every: int, common: int, agree: Callable[[bool], bool]
    ) -> Callable[[int], None]:
        """To be called after every batch: reports how many of `total` examples are done, and raises Interrupted where
        the stage is asked to stop.

        Ranks stop together, after the same batch: each `every` ones they ask by `agree` whether any of them is to
        stop, as long as all have batches (`common`).
        """
        batches = 0

        def count(done: int) -> None:
            nonlocal batches
            batches += 1
            self(Progress(stage.name, doing, epoch, stage.epochs, done, total))
            if batches <= common and batches % every == 0 and agree(self.stop):
                raise Interrupted(stage.name)

        return count
