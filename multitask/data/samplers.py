"""Which examples make a global batch, and which of them a rank computes.

An epoch's global batches depend on (seed, stage, epoch, data) alone: ranks take slices of
them, so their number changes the speed and not the result, and a position is (epoch, step).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# Sorting by length inside pools of this many batches leaves little padding and still mixes every epoch anew.
POOL_BATCHES = 64


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def epoch_batches(lengths: Rows, batch_size: int, seed: int) -> list[Rows]:
    """Every row once, in shuffled batches of rows of similar length; one batch may be short.

    lengths: (N,) tokens of each example's longest sentence. Rows inside a batch come longest first, so that
    strided slices cost all ranks the same.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    pool = POOL_BATCHES * batch_size
    batches: list[Rows] = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def rank_slice(rows: Rows, rank: int, world: int) -> tuple[Rows, NDArray[np.float32]]:
    """This rank's rows of a global batch and their weights.

    A rank with no row left (a short last batch) computes the first row with weight 0: it has to take part in
    the reduction, and adds nothing to it.
    """
    mine = rows[rank::world]
    if len(mine):
        return mine, np.ones(len(mine), np.float32)
    return rows[:1], np.zeros(1, np.float32)


def eval_batches(lengths: Rows, tokens: int) -> list[Rows]:
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
