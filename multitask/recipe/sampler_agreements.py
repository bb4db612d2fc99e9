"""What a user's own sampler has to keep to, tried on random lengths: ranks plan alike, and so does a resumed stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.data.batches import EpochSlices
from multitask.data.own_sampler import Epoch, OwnPlan
from multitask.data.samplers import Rows
from multitask.recipe.agreements import Agreement, kept

SIZES = {"one task": {"sst": 43}, "two tasks": {"sst": 43, "quora": 20}}
BATCH, EPOCHS, SEED = 8, 3, 11711


def of_sampler(path: str) -> Iterator[Agreement]:
    """A sampler need not serve any number of tasks: those on which it fails at once are left out, unless all do."""
    tried = [list(_of_sizes(path, of, sizes)) for of, sizes in SIZES.items()]
    for found in [found for found in tried if found[0].kept] or tried:
        yield from found


def _of_sizes(path: str, of: str, sizes: dict[str, int]) -> Iterator[Agreement]:
    drawn = np.random.default_rng(SEED)
    lengths = {task: drawn.integers(3, 40, size) for task, size in sizes.items()}
    labels = {task: drawn.integers(0, 2, size).astype(np.float32) for task, size in sizes.items()}

    def plan(number: int = 0) -> OwnPlan:
        return OwnPlan(path, Epoch(lengths, labels, BATCH, SEED + number, number, EPOCHS))

    def batches() -> str:
        for number in range(EPOCHS):
            list(plan(number))
        return ""

    def again() -> str:
        one, other = _on_rank(plan(1)), _on_rank(plan(1))
        return next((f"batch {at} is another" for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), "")

    def rest() -> str:
        whole, step = plan(1), len(plan(1)) // 2
        ranks = [(_on_rank(whole, rank, 2)[step:], _on_rank(plan(1), rank, 2, step)) for rank in range(2)]
        return "" if all(one == other for one, other in ranks) else f"from step {step} on it is another"

    def length() -> str:
        found = [len(plan(number)) for number in range(EPOCHS)]
        return "" if len({*found}) == 1 else f"they have {', '.join(map(str, found))}"

    def slices() -> str:
        ranks = [_on_rank(plan(), rank, 2) for rank in range(2)]
        for at, (_, rows) in enumerate(plan()):
            counted = [row for _, mine in (ranks[0][at], ranks[1][at]) for row in mine]
            if sorted(counted) != sorted(rows.tolist()):
                return f"batch {at} has {len(rows)} rows, and {len(counted)} on two ranks"
        return ""

    yield kept(of, "(epoch) gives batches of rows that there are, batch_size at most", batches)
    yield kept(of, "the same epoch has the same plan", again)
    yield kept(of, "a resume from a step has the rest of the plan", rest)
    yield kept(of, "all epochs have as many batches", length)
    yield kept(of, "two ranks' slices share no row, and are the plan together", slices)


def _on_rank(plan: OwnPlan, rank: int = 0, world: int = 1, start: int = 0) -> list[tuple[str, list[int]]]:
    """The (task, rows) of a rank's slices that count, from a step on, as training has them."""

    def make(task: str, rows: Rows, weights: NDArray[np.float32], step: int) -> Any:
        return task, rows[weights > 0].tolist()

    slices = EpochSlices(plan, make, rank=rank, world=world, start=start)
    return [slices[at] for at in range(len(slices))]
