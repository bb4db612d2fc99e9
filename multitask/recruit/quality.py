"""How good a search is: a posting's own field asks for it among all postings, which are searched without that field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from multitask.inference.embed import TextEncoder
from multitask.measure.bootstrap import INTERVAL_SEED, mean_interval
from multitask.measure.rankings import ndcg, ranked, recall, reciprocal_rank
from multitask.recruit.index import build
from multitask.recruit.passages import first_words
from multitask.recruit.postings import Posting
from multitask.recruit.search import Searcher

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Places = NDArray[np.int64]

QUERY_WORDS = 100  # of a query's field


METRICS: dict[str, Callable[[Bools], float]] = {
    "recall@1": partial(recall, k=1),
    "recall@5": partial(recall, k=5),
    "recall@10": partial(recall, k=10),
    "mrr": reciprocal_rank,
    "ndcg@10": partial(ndcg, k=10),
}


@dataclass(frozen=True)
class Kind:
    """Queries from a field, which the postings are searched without. same: what makes a posting relevant, besides
    being a repeat of the one that asks: an equal value of this field, if any."""

    field: str
    same: str = ""


# Equal qualifications are repeats; those of another posting by the same words are none (fluency in English).
KINDS = {"title": Kind("title", same="title"), "qualifications": Kind("qualifications")}


@dataclass(frozen=True)
class Queries:
    """Q queries of one kind, and what answers them.

    rows: (Q,) postings that ask. texts: what. keys: (K, N), a posting is relevant that has one key in common.
    """

    rows: Places
    texts: tuple[str, ...]
    keys: Places

    @property
    def units(self) -> Places:
        """(Q,) what is resampled together: queries that are alike, by their first posting."""
        return np.asarray(self.keys[0, self.rows])

    def relevant(self, row: int) -> Bools:
        """(N,) the postings that the one at `row` asks for, itself among them."""
        return np.asarray((self.keys == self.keys[:, [row]]).any(axis=0))


def queries(postings: Sequence[Posting], kind: str, groups: Places, rows: Iterable[int]) -> Queries:
    """The queries of the postings at `rows` that have the kind's field. groups: (N,) of `repeat_groups`."""
    asks = KINDS[kind]
    places = np.array([row for row in rows if getattr(postings[row], asks.field)], np.int64)
    keys = [_first_alike([getattr(posting, asks.same).casefold() for posting in postings])] if asks.same else []
    texts = (first_words(getattr(postings[row], asks.field), QUERY_WORDS) for row in places)
    return Queries(places, tuple(texts), np.stack([*keys, groups]))


def _first_alike(texts: Sequence[str]) -> Places:
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, place) for place, text in enumerate(texts)], np.int64)


@dataclass(frozen=True)
class System:
    """A way of searching to be compared: an encoder and one of search.MODES."""

    encoder: TextEncoder
    mode: str


@dataclass(frozen=True)
class Measured:
    """A system's metrics, (Q,) values each, of a kind's queries. units: (Q,) queries with the same one are alike."""

    system: str
    kind: str
    units: Places
    values: dict[str, Floats]


def compare(
    systems: Mapping[str, System], postings: Sequence[Posting], groups: Places, rows: Sequence[int]
) -> list[Measured]:
    """Every system on every kind of query that `rows` ask; all postings are searched. groups: of `repeat_groups`."""
    found = []
    for name, kind in KINDS.items():
        asked = queries(postings, name, groups, rows)
        searchers = {
            encoder: Searcher(build(encoder, postings, without=(kind.field,)), encoder)
            for encoder in dict.fromkeys(system.encoder for system in systems.values())
        }
        for label, system in systems.items():
            values = measured(searchers[system.encoder], asked, system.mode)
            found.append(Measured(label, name, asked.units, values))
    return found


def measured(searcher: Searcher, asked: Queries, mode: str) -> dict[str, Floats]:
    """metric -> (Q,)."""
    orders = [
        ranked(scores, asked.relevant(row))
        for row, scores in zip(asked.rows, searcher.scores(asked.texts, mode), strict=True)
    ]
    return {name: np.array([metric(order) for order in orders]) for name, metric in METRICS.items()}


def pooled(parts: Iterable[Measured]) -> list[Measured]:
    """Several folds' measurements of one system and kind put together as one; systems and kinds keep the order of the
    first fold."""
    together: dict[tuple[str, str], list[Measured]] = {}
    for part in parts:
        together.setdefault((part.system, part.kind), []).append(part)
    return [
        Measured(
            *key,
            np.concatenate([part.units for part in same]),
            {name: np.concatenate([part.values[name] for part in same]) for name in METRICS},
        )
        for key, same in together.items()
    ]


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % percentile interval; queries: how many."""

    value: float
    low: float
    high: float
    queries: int


def estimate(values: Floats, units: Places, seed: int = INTERVAL_SEED, shares: bool = False) -> Estimate:
    """Resamples units, not queries: eight postings that ask for "accountant" are one question. The seed fixes it.

    shares: whether the values lie in 0..1 by their nature; where all are 0, or all 1, the interval is Wilson's.
    """
    low, high = mean_interval(values, units, shares=shares, seed=seed)
    return Estimate(float(values.mean()), low, high, len(values))


def difference(better: Measured, worse: Measured, metric: str, seed: int = INTERVAL_SEED) -> Estimate:
    """By how much one system is better than another on the same queries: a paired bootstrap."""
    assert np.array_equal(better.units, worse.units), f"{better.system} and {worse.system} answered other queries"
    return estimate(better.values[metric] - worse.values[metric], better.units, seed)
