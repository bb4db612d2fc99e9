"""How well what is asked for is ranked: measures of one question's candidates, and the questions of a task of pairs.

A pair's first text asks, its second one is a candidate. Of equal scores the relevant candidates come last: a model that
cannot tell gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multitask.tasks.labels import LabelSpec

if TYPE_CHECKING:  # torch is much to load for whoever only asks which metrics there are
    from multitask.data.tokens import TokenTable

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Ranking = Callable[[Bools], float]  # whether the candidate in each rank is relevant -> a number for the question


def ranked(scores: NDArray[np.floating], relevant: Bools) -> Bools:
    """(N,) whether the candidate in each rank is relevant. scores, relevant: (N,), a candidate each."""
    return np.asarray(relevant[np.lexsort((relevant, -scores))])


def recall(ranked: Bools, k: int) -> float:
    """The share of the relevant candidates among the first k. ranked: (N,) whether the one in that rank is relevant."""
    return float(ranked[:k].sum() / ranked.sum())


def reciprocal_rank(ranked: Bools) -> float:
    """1 / the rank of the first relevant candidate."""
    return 1.0 / (1 + int(np.argmax(ranked)))


def ndcg(ranked: Bools, k: int) -> float:
    """Discounted gain, a relevant candidate in rank r gains 1 / log2(r + 1), by the best that could be (first k)."""
    gains = 1 / np.log2(np.arange(2, k + 2))
    best = gains[: int(ranked.sum())].sum()
    return float(gains[: len(ranked)][ranked[:k]].sum() / best)


def precision_of_ranks(ranked: Bools) -> float:
    """The mean, over the relevant candidates, of the share of relevant ones down to their rank."""
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


@dataclass(frozen=True)
class Questions:
    """The questions of N pairs."""

    number: Places
    """(N,) which question each pair is of; pairs whose first texts are equal share one."""
    relevant: Bools
    """(N,) whether the second text is what is asked for."""

    def of(self, rows: Bools) -> Questions:
        """The questions of some of the pairs. rows: (N,) whether each is one of them."""
        return Questions(self.number[rows], self.relevant[rows])

    def values(self, measure: Ranking, scores: Floats) -> Floats:
        """(Q,) a measure of each question that has a relevant candidate, and one that is not. scores: (N,) how relevant
        each pair is found."""
        order = np.argsort(self.number, kind="stable")
        ends = np.flatnonzero(np.diff(self.number[order])) + 1
        asked = [(scores[rows], self.relevant[rows]) for rows in np.split(order, ends)]
        counting = [(given, there) for given, there in asked if there.any() and not there.all()]
        return np.array([measure(ranked(given, there)) for given, there in counting])


def questions_of(table: TokenTable, label: LabelSpec) -> Questions:
    """The questions of a table of pairs. A pair is relevant where its label is at least the least of a pair that means
    the same, or, where none is said, in the upper half of its range."""
    if table.seconds is None:
        first = table.keys.numpy()[:: table.sentences]
    else:  # of joined pairs, the tokens before the second text
        texts = [table.sentence(row)[:until].numpy().tobytes() for row, until in enumerate(table.seconds.tolist())]
        known = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        first = np.array([known[text] for text in texts], np.int64)
    labels = table.labels.double().numpy()
    relevant = labels >= label.similar if label.similar is not None else labels > (label.low + label.high) / 2
    return Questions(first, np.asarray(relevant))
