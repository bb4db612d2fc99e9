"""Which examples make a global batch, and which of them a rank computes.

An epoch's global batches depend on (seed, stage, epoch, data) alone: ranks take slices of
them, so their number changes the speed and not the result, and a position is (epoch, step).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Lengths = NDArray[np.signedinteger[Any]]  # of whatever size: there may be many

# Sorting by length inside pools of this many batches leaves little padding and still mixes every epoch anew.
POOL_BATCHES = 64


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class EpochBatches(Sequence[Rows]):
    """Every row once, in shuffled batches of rows of similar length; one batch may be short.

    lengths: (N,) tokens of each example's longest sentence. Rows inside a batch come longest first, so that
    strided slices cost all ranks the same. Four bytes a row are held, and four a batch.
    """

    def __init__(self, lengths: Lengths, batch_size: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self.batch_size, self.rows = batch_size, _counted(len(lengths))
        generator.shuffle(self.rows)
        pool = POOL_BATCHES * batch_size
        for start in range(0, len(self.rows), pool):
            rows = self.rows[start : start + pool]
            rows[:] = rows[np.argsort(-lengths[rows].astype(np.int64), kind="stable")]
        self.order = _counted(-(-len(self.rows) // batch_size))
        generator.shuffle(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, at: Any) -> Any:
        start = int(self.order[at]) * self.batch_size
        return self.rows[start : start + self.batch_size].astype(np.int64)


def _counted(count: int) -> NDArray[np.signedinteger[Any]]:
    """0 to count - 1, in as few bytes as they need."""
    return np.arange(count, dtype=np.int32 if count <= np.iinfo(np.int32).max else np.int64)


def rank_slice(rows: Rows, rank: int, world: int) -> tuple[Rows, NDArray[np.float32]]:
    """This rank's rows of a global batch and their weights.

    A rank with no row left (a short last batch) computes the first row with weight 0: it has to take part in
    the reduction, and adds nothing to it.
    """
    mine = rows[rank::world]
    if len(mine):
        return mine, np.ones(len(mine), np.float32)
    return rows[:1], np.zeros(1, np.float32)


def eval_batches(lengths: Lengths, tokens: int) -> list[Rows]:
    """Every row once, longest first, in batches of at most `tokens` padded tokens a sentence column."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[Rows] = []
    start = 0
    while start < len(order):
        size = max(1, tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def subset(rows: int, cap: int | None, seed: int) -> Rows:
    """At most `cap` of the rows, drawn by seed (files are often sorted by source), in file order."""
    if cap is None or cap >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:cap])


def training_rows(rows: int, cap: int | None, seed: int, task: str) -> Rows:
    """The examples of a task's training file that a stage uses: the same ones in all its stages of that seed."""
    return subset(rows, cap, derive_seed(seed, "max_examples", task))


def stacked(rows: Rows, sentences: int) -> Rows:
    """The indices of some examples' sentences in a batch's order: all first sentences, then all second ones."""
    return (rows[None, :] * sentences + np.arange(sentences)[:, None]).reshape(-1)
