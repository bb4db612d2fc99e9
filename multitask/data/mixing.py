"""How the batches of several tasks follow each other in an epoch. It depends on (mixing, sizes, epoch, seed) alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.data.samplers import EpochBatches, Lengths, Rows, derive_seed

Sizes = Mapping[str, int]  # task -> batches

# Annealed sampling: tasks are drawn in proportion to size^alpha, alpha falling from 1 in the first epoch to this in
# the last, so that tasks count more alike towards the end (Stickland and Murray, 2019: 1 - 0.8 (e - 1) / (E - 1)).
LAST_ALPHA = 0.2


def _annealed(sizes: Sizes, epoch: int, epochs: int) -> dict[str, float]:
    alpha = 1.0 - (1.0 - LAST_ALPHA) * epoch / max(1, epochs - 1)
    return {task: size**alpha for task, size in sizes.items()}


def _all_once(sizes: Sizes, epoch: int, epochs: int) -> dict[str, float]:
    return {task: float(size) for task, size in sizes.items()}


# What share of an epoch's batches each task gets, by name of the mixing.
WEIGHTS: dict[str, Callable[[Sizes, int, int], dict[str, float]]] = {
    "round-robin": _all_once,
    "proportional": _all_once,
    "annealed": _annealed,
}


def batch_counts(mixing: str | Mapping[str, float], sizes: Sizes, epoch: int, epochs: int) -> dict[str, int]:
    """How many batches of each task an epoch has: as many in all as the tasks' files have together.

    Shares are rounded so that their sum holds (largest remainders), and no task is left out.
    """
    weights = WEIGHTS[mixing](sizes, epoch, epochs) if isinstance(mixing, str) else dict(mixing)
    total, whole = sum(sizes.values()), sum(weights.values())
    shares = {task: total * weights[task] / whole for task in sizes}
    counts = {task: int(share) for task, share in shares.items()}
    by_remainder = sorted(sizes, key=lambda task: counts[task] - shares[task])
    for task in by_remainder[: total - sum(counts.values())]:
        counts[task] += 1
    for task in [task for task, count in counts.items() if not count]:
        richest = max(counts, key=lambda name: counts[name])
        counts[richest], counts[task] = counts[richest] - 1, 1
    return counts


def order(mixing: str | Mapping[str, float], counts: Sizes, seed: int) -> list[str]:
    """The tasks of an epoch's batches in turn: one of each until it is used up (mlm-mnrl.txt, 4.2), or shuffled."""
    if mixing == "round-robin":
        return [task for turn in range(max(counts.values())) for task, count in counts.items() if turn < count]
    tasks = [task for task, count in counts.items() for _ in range(count)]
    return [tasks[at] for at in np.random.default_rng(seed).permutation(len(tasks))]


def batches_in(rows: int, batch_size: int) -> int:
    """How many batches that many rows make, a short one included."""
    return -(-rows // batch_size)


class Passes:
    """A task's batches without end: all of its rows, then all again, shuffled anew."""

    def __init__(self, lengths: Lengths, batch_size: int, seed: int, task: str) -> None:
        self.lengths, self.batch_size, self.seed, self.task = lengths, batch_size, seed, task
        self.newest: tuple[int, EpochBatches] = (-1, EpochBatches(lengths[:0], batch_size, 0))

    def __getitem__(self, at: int) -> Rows:
        number, within = divmod(at, batches_in(len(self.lengths), self.batch_size))
        if number != self.newest[0]:
            seed = derive_seed(self.seed, self.task, number)
            self.newest = (number, EpochBatches(self.lengths, self.batch_size, seed))
        found: Rows = self.newest[1][within]
        return found


class Plan(Sequence[tuple[str, Rows]]):
    """Global batches in turn: (task, indices into the task's `lengths`). A batch is made when it is asked for.

    sources: task -> its batches, by number. turns: of each item the place of its task among these, of which it is the
    next batch.
    """

    def __init__(self, sources: Mapping[str, Passes | EpochBatches], turns: NDArray[np.int16]) -> None:
        self.tasks, self.sources, self.turns = [*sources], [*sources.values()], turns
        self.numbers = np.empty(len(turns), np.int32)
        for place in range(len(self.tasks)):
            mine = np.flatnonzero(turns == place)
            self.numbers[mine] = np.arange(len(mine))

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        turn = int(self.turns[at])
        return self.tasks[turn], self.sources[turn][int(self.numbers[at])]


def plan_epoch(
    mixing: str | Mapping[str, float],
    lengths: Mapping[str, Lengths],
    batch_size: int,
    seed: int,
    epoch: int,
    epochs: int,
) -> Plan:
    """An epoch's global batches; with one task, all of it once.

    A task that gets more batches than it has is passed through again, shuffled anew; one that gets fewer is cut.
    """
    if len(lengths) == 1:
        alone = {task: EpochBatches(rows, batch_size, seed) for task, rows in lengths.items()}
        return Plan(alone, np.zeros(sum(map(len, alone.values())), np.int16))
    sizes = {task: batches_in(len(rows), batch_size) for task, rows in lengths.items()}
    counts = batch_counts(mixing, sizes, epoch, epochs)
    places = {task: place for place, task in enumerate(lengths)}
    turns = [places[task] for task in order(mixing, counts, derive_seed(seed, "order"))]
    return Plan(_passes(lengths, batch_size, seed), np.array(turns, np.int16))


def plan_together(lengths: Mapping[str, Lengths], batch_size: int, seed: int, steps: int) -> Plan:
    """An epoch whose steps take a batch of each task, in the tasks' order: as `plan_epoch`, len(lengths) items a step.

    A short task's file is passed through again, shuffled anew; a long one is cut.
    """
    return Plan(_passes(lengths, batch_size, seed), np.tile(np.arange(len(lengths), dtype=np.int16), steps))


def _passes(lengths: Mapping[str, Lengths], batch_size: int, seed: int) -> dict[str, Passes]:
    return {task: Passes(rows, batch_size, seed, task) for task, rows in lengths.items()}
