"""A sampler of a user's own, by import path: it plans an epoch's global batches, of which ranks take slices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.data.samplers import Lengths, Rows
from multitask.errors import UserError, short_list, shown
from multitask.tasks.imported import Table, read_only


@dataclass(frozen=True)
class Epoch:
    """What a sampler goes by, and nothing else: all ranks plan an epoch, and a resumed stage plans it again."""

    lengths: Mapping[str, Lengths]
    """Task -> (N,) tokens of each example's longest sentence."""
    labels: Mapping[str, NDArray[np.float32]]
    """Task -> (N,) or (N, W) the examples' labels; NaN where one has none."""
    batch_size: int
    """The most examples of a batch."""
    seed: int
    """What is drawn is drawn by it; it is another one in each epoch."""
    number: int
    """Which epoch it is, from 0."""
    epochs: int
    """How many the stage has."""


# An epoch -> its batches in turn: the task of each, and the places of its examples among the task's.
Sampler = Callable[[Epoch], Sequence[tuple[str, Any]]]


def _adopted(found: Any, name: str) -> Sampler:
    if isinstance(found, type) or not callable(found):
        raise TypeError(f"it is {type(found).__name__}; valid: a function (epoch) -> [(task, rows), ...]")
    sampler: Sampler = found
    return sampler


def _read_only(of_tasks: Mapping[str, Any]) -> dict[str, Any]:
    return {task: read_only(values) for task, values in of_tasks.items()}


SAMPLERS: Table[Sampler] = Table({}, _adopted)


class OwnPlan(Sequence[tuple[str, Rows]]):
    """The epoch that a user's sampler plans; each batch is checked when it is asked for. Raises UserError, naming the
    sampler, where one is none."""

    def __init__(self, name: str, epoch: Epoch) -> None:
        self.name, self.epoch = name, epoch
        facts: dict[str, Any] = {fact: _read_only(getattr(epoch, fact)) for fact in ("lengths", "labels")}
        self.batches = SAMPLERS[name](replace(epoch, **facts))
        if not isinstance(self.batches, Sequence) or not len(self.batches):
            raise self._wrong(f"{shown(self.batches)}; valid: a list of (task, rows)")

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[str, Rows]]:
        return (self[at] for at in range(len(self)))

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        batch, lengths = self.batches[at], self.epoch.lengths
        if not isinstance(batch, tuple) or len(batch) != 2:
            raise self._wrong(f"batch {at} is {shown(batch)}; valid: (task, rows)")
        task, rows = batch[0], np.asarray(batch[1])
        if task not in lengths:
            raise self._wrong(f"batch {at} is of {shown(task)}; valid: {short_list(lengths)}")
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not 1 <= len(rows) <= self.epoch.batch_size:
            what = f"{rows.dtype} of shape {rows.shape}"
            raise self._wrong(f"batch {at} has rows {what}; valid: 1 to {self.epoch.batch_size} whole numbers")
        if rows.min() < 0 or rows.max() >= len(lengths[task]):
            far = int(rows.max() if rows.min() >= 0 else rows.min())
            raise self._wrong(f"batch {at} has row {far} of {task}; valid: 0 to {len(lengths[task]) - 1}")
        if len(np.unique(rows)) < len(rows):
            raise self._wrong(f"batch {at} has a row of {task} twice; valid: each once")
        return task, rows.astype(np.int64)

    def _wrong(self, what: str) -> UserError:
        return UserError(f"sampler '{self.name}': epoch {self.epoch.number}: {what}")

    def check_length(self, batches: int) -> None:
        """Raises UserError unless the epoch has as many batches as the first one: the learning rate's course and where
        a stage stands are counted in those."""
        if len(self) != batches:
            raise self._wrong(f"{len(self)} batches, and epoch 0 has {batches}; valid: as many in each")

    def check_again(self, again: OwnPlan) -> None:
        """Raises UserError unless the epoch, planned again, is the same: a stage that is resumed would be another."""
        if again.digest() != self.digest():
            raise self._wrong("another plan each time; valid: one that goes by nothing but what it is given")

    def digest(self) -> str:
        """A hash of the whole plan."""
        found = hashlib.sha256()
        for task, rows in self:
            found.update(task.encode() + b"\0" + rows.tobytes())
        return found.hexdigest()
