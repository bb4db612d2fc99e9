"""The board: what workers and driver tell each other directly. A module of its own, so that its actor imports no
torch."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

from ray_jobs.runners.ends import End, first

SAME_SECONDS = 60.0  # in which the same warning is one, of whichever ranks
MAX_STARTS = 3  # of the workers in succession, without a step beyond those done before


@dataclass(frozen=True)
class News:
    """All that the driver learns when it looks at the board."""

    line: dict[str, Any] | None
    """The newest progress."""
    failure: tuple[str, str] | None
    """Kind and message of what ended the run."""
    finished: int
    """How many jobs are done."""
    workers: int
    """How many workers there are."""
    starts: int
    """How often the workers were started."""
    trouble: str
    """What ended the workers last."""
    failures: dict[str, tuple[str, str]]
    """Label of a sweep's trial -> kind and message of its failure."""
    stopped: frozenset[str]
    """The labels of a sweep's trials that ASHA has stopped."""
    said: list[str]
    """What workers have warned of since the last look."""
    ends: list[End]
    """How workers have ended since the last look."""


class Board:
    """An asynchronous Ray actor, one a run. Jobs are handed out in the order in which they were offered, from 1.

    Ray may start the workers again and again: a spot machine's loss is nothing to give up for. What ends a run is
    MAX_STARTS starts in succession without progress, every failure that would come again, and an error that did: the
    same one at two starts in a row, but for those that may pass (ray_jobs/runners/ends.py).
    """

    def __init__(self) -> None:
        self.job: dict[str, Any] | None = None
        self.number, self.finished, self.workers = 0, 0, 0
        self.line: dict[str, Any] | None = None
        self.failure: tuple[str, str] | None = None
        self.failures: dict[str, tuple[str, str]] = {}
        self.stopped: set[str] = set()
        self.starts = 0
        self.trouble = "they were lost, without an error of their own"
        self.stop = self.closed = False
        self._fruitless, self._furthest, self._begun = 0, (0, 0, 0), False
        self._noted: dict[str, dict[int, End]] = {}  # label -> rank -> its own word of how it ended, in this start
        self._causes: dict[str, set[str]] = {}  # label -> of the errors that ended its last start
        self._said: dict[str, float] = {}  # what was said -> when: every rank says the same things
        self._unheard: list[str] = []  # by the driver
        self._ends: list[End] = []
        self._changed = asyncio.Condition()

    async def offer(self, job: dict[str, Any]) -> int:
        """Offers the next job to the workers; returns its number."""
        async with self._changed:
            self.job, self.number = job, self.number + 1
            self._changed.notify_all()
        return self.number

    async def close(self) -> None:
        """Tells the workers that no job comes any more."""
        async with self._changed:
            self.closed = True
            self._changed.notify_all()

    async def next(self, done: int) -> tuple[int, dict[str, Any]] | None:
        """The job after the one of number `done`, as soon as there is one; the newest for workers that start (0).
        None where there will be no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.closed or (self.number > done and self.job is not None))
        return None if self.closed or self.job is None else (self.number, self.job)

    async def begin(self, workers: int) -> None:
        """Notes that so many workers have started, or started again."""
        if workers != self.workers:  # fewer or more than before: the cluster has changed, not the workers failed
            self._fruitless = 0
        self.workers, self.starts, self._begun = workers, self.starts + 1, True
        await self._count()

    async def _count(self) -> None:
        self._fruitless += 1
        if self._fruitless > MAX_STARTS:
            what = f"the workers were started {MAX_STARTS} times without a step: {self.trouble}"
            await self.fail("", "RuntimeError", what)

    async def post(self, line: dict[str, Any]) -> bool:
        """Keeps rank 0's progress; returns whether to stop."""
        self.line = line
        here = (self.number, int(line["epoch"]), int(line["done"]) if line["doing"] == "step" else 0)
        if here > self._furthest:
            self._furthest, self._fruitless = here, 0
        return self.stop

    async def say(self, text: str) -> None:
        """Keeps a worker's warning for the driver; once a minute, whoever else says it too."""
        if time.monotonic() - self._said.get(text, -math.inf) > SAME_SECONDS:
            self._said[text] = time.monotonic()
            self._unheard.append(text)

    async def note(self, label: str, end: End) -> None:
        """Keeps a rank's own word of how it ended, which says more than Ray's."""
        self._noted.setdefault(label, {})[end.rank] = end

    async def ended(self, label: str, ends: list[End], passing: bool = False) -> bool:
        """Notes how a start of workers ended; returns whether there is to be another. passing: whether their machines
        are being taken away."""
        known = {end.rank: end for end in ends} | self._noted.pop(label, {})
        if not self._begun and not label and not passing:
            await self._count()
        self._begun = False
        self._ends += known.values()
        self.trouble = first(list(known.values())).what if known else self.trouble
        found = {end.cause: end for end in known.values() if end.cause and not passing}
        again = found.keys() & self._causes.get(label, set())
        self._causes[label] = set(found)
        for cause in sorted(again):
            end = found[cause]
            await self.fail(label, end.kind, f"{end.message} (rank {end.rank}, at two starts in a row)")
        return label not in self.failures

    async def excuse(self) -> None:
        """Does not count the workers' next start against them: a node is being taken away."""
        self._fruitless = 0

    async def stopping(self) -> bool:
        return self.stop

    async def finish(self, number: int) -> None:
        self.finished = number

    async def fail(self, label: str, kind: str, message: str) -> None:
        """Posts a failure that would come again and so ends the run; in a sweep, the trial of that label."""
        self.failure = self.failure or (kind, message)
        self.failures.setdefault(label, (kind, message))

    async def failed(self, label: str) -> bool:
        return label in self.failures

    async def lags(self, label: str) -> None:
        """Notes that ASHA stops the trial of that label."""
        self.stopped.add(label)

    async def peek(self, stop: bool) -> News:
        self.stop = stop
        said, ends, self._unheard, self._ends = self._unheard, self._ends, [], []
        return News(
            self.line,
            self.failure,
            self.finished,
            self.workers,
            self.starts,
            self.trouble,
            self.failures,
            frozenset(self.stopped),
            said,
            ends,
        )
