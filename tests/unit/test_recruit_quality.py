"""How good a search is: metrics by hand and against scikit-learn, queries and what is relevant to them, intervals."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from multitask.inference.embed import TextEncoder
from multitask.recruit.index import build
from multitask.recruit.postings import Posting
from multitask.recruit.quality import (
    KINDS,
    METRICS,
    Measured,
    System,
    compare,
    difference,
    estimate,
    measured,
    ndcg,
    pooled,
    queries,
    ranked,
    recall,
    reciprocal_rank,
)
from multitask.recruit.search import Searcher
from tests.helpers import tiny

POSTINGS = [
    Posting("a", "Nurse", description="care for patients", qualifications="a diploma in nursing"),
    Posting("b", "Driver", description="drive a truck", qualifications="a licence"),
    Posting("c", "NURSE", description="work in a clinic"),
    Posting("d", "Night nurse", description="care for patients by night", qualifications="a diploma in nursing care"),
]
GROUPS = np.array([0, 1, 2, 0])  # d repeats a


def relevance(*ranks: int, of: int = 12) -> np.ndarray:
    """Relevant postings in these ranks, from 1 on."""
    found = np.zeros(of, bool)
    found[np.array(ranks) - 1] = True
    return found


def test_metrics_by_hand() -> None:
    order = relevance(2, 5, 11)
    assert [recall(order, k) for k in (1, 5, 10)] == [0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
    assert reciprocal_rank(order) == 0.5
    best = 1 + 1 / log2(3) + 1 / log2(4)
    assert ndcg(order, 10) == pytest.approx((1 / log2(3) + 1 / log2(6)) / best)


def test_the_best_order_is_worth_one_however_many_are_relevant() -> None:
    for count in (1, 3, 12):
        order = relevance(*range(1, count + 1))
        assert ndcg(order, 10) == pytest.approx(1)
        assert reciprocal_rank(order) == 1
        assert recall(order, 12) == 1


def test_fewer_postings_than_k() -> None:
    order = relevance(2, of=3)
    assert {name: metric(order) for name, metric in METRICS.items()} == {
        "recall@1": 0,
        "recall@5": 1,
        "recall@10": 1,
        "mrr": 0.5,
        "ndcg@10": pytest.approx(1 / log2(3)),
    }


@given(st.lists(st.tuples(st.booleans(), st.floats(-5, 5)), min_size=2, max_size=40, unique_by=lambda pair: pair[1]))
def test_ndcg_is_that_of_a_known_library(pairs: list[tuple[bool, float]]) -> None:
    relevant, scores = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    relevant[0] = True
    assert ndcg(ranked(scores, relevant), 10) == pytest.approx(ndcg_score([relevant], [scores], k=10))


def test_what_a_system_cannot_tell_apart_gains_it_nothing() -> None:
    relevant = np.array([True, False, True, False])
    assert ranked(np.zeros(4), relevant).tolist() == [False, False, True, True]
    assert ranked(np.array([1.0, -np.inf, 2.0, -np.inf]), relevant).tolist() == [True, True, False, False]


def test_titles_ask_for_the_same_title_in_any_case_and_for_repeats() -> None:
    asked = queries(POSTINGS, "title", GROUPS, range(4))
    assert asked.texts == ("Nurse", "Driver", "NURSE", "Night nurse")
    assert [np.flatnonzero(asked.relevant(row)).tolist() for row in range(4)] == [[0, 2, 3], [1], [0, 2], [0, 3]]
    assert asked.units.tolist() == [0, 1, 0, 3]


def test_qualifications_ask_for_their_own_posting_and_its_repeats() -> None:
    asked = queries(POSTINGS, "qualifications", GROUPS, [3, 2, 1])
    assert asked.rows.tolist() == [3, 1]  # c has none
    assert [np.flatnonzero(asked.relevant(row)).tolist() for row in asked.rows] == [[0, 3], [1]]
    long = [Posting("a", "Nurse", qualifications="- one,\n" + "word " * 200)]
    assert queries(long, "qualifications", np.array([0]), [0]).texts == ("- one,\n" + "word " * 97 + "word",)


def test_postings_are_searched_without_the_field_that_asks() -> None:
    """BM25 would find "licence" only where the qualifications stand."""
    encoder = TextEncoder(tiny())
    found = compare({"bm25": System(encoder, "bm25")}, POSTINGS, GROUPS, [1])
    assert [(one.system, one.kind) for one in found] == [("bm25", "title"), ("bm25", "qualifications")]
    assert found[1].values["mrr"].tolist() == [0.25]  # all score 0, and the relevant one comes last
    searcher = Searcher(build(encoder, POSTINGS), encoder)
    with_it = measured(searcher, queries(POSTINGS, "qualifications", GROUPS, [1]), "bm25")
    assert with_it["mrr"].tolist() == [1]


def test_systems_are_compared_on_the_same_queries() -> None:
    encoder = TextEncoder(tiny())
    systems = {"bm25": System(encoder, "bm25"), "hybrid": System(encoder, "hybrid")}
    found = compare(systems, POSTINGS, GROUPS, [0, 1, 3])
    assert len(found) == len(systems) * len(KINDS)
    for bm25, hybrid in zip(found[::2], found[1::2], strict=True):
        assert bm25.units.tolist() == hybrid.units.tolist()
        assert set(bm25.values) == set(METRICS)
        assert {len(values) for values in hybrid.values.values()} == {len(hybrid.units)}


def part(system: str, units: list[int], values: list[float]) -> Measured:
    return Measured(system, "title", np.array(units), {name: np.array(values) for name in METRICS})


def test_folds_are_pooled_by_system_and_kind() -> None:
    found = pooled([part("one", [3], [0.5]), part("two", [3], [1.0]), part("one", [7, 8], [0.0, 1.0])])
    assert [(one.system, one.units.tolist(), one.values["mrr"].tolist()) for one in found] == [
        ("one", [3, 7, 8], [0.5, 0.0, 1.0]),
        ("two", [3], [1.0]),
    ]


def test_an_interval_of_equal_values_has_no_width() -> None:
    found = estimate(np.full(20, 0.3), np.arange(20))
    assert (found.value, found.low, found.high, found.queries) == (
        pytest.approx(0.3),
        pytest.approx(0.3),
        pytest.approx(0.3),
        20,
    )


def test_an_interval_is_as_wide_as_theory_has_it() -> None:
    """The mean of n coin throws has a standard error of 0.5 / sqrt(n)."""
    values = np.random.default_rng(0).permutation(np.repeat([0.0, 1.0], 200))
    found = estimate(values, np.arange(400))
    assert found == estimate(values, np.arange(400))  # the same seed
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert found.low < found.value == 0.5 < found.high


def test_queries_that_are_alike_are_one_question() -> None:
    """A hundred questions asked four times each tell as little as a hundred."""
    once = np.random.default_rng(0).random(100)
    alone = estimate(once, np.arange(100))
    repeated = estimate(np.repeat(once, 4), np.repeat(np.arange(100), 4))
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_a_small_gain_on_every_query_is_outside_the_interval() -> None:
    """Paired: how much queries differ from each other does not matter."""
    values = np.random.default_rng(0).random(50)
    better, worse = (
        part("one", list(range(50)), (values + 0.01).tolist()),
        part("two", list(range(50)), values.tolist()),
    )
    found = difference(better, worse, "mrr")
    assert found.value == pytest.approx(0.01)
    assert found.low > 0
    with pytest.raises(AssertionError, match="other queries"):
        difference(better, part("two", [1], [0.5]), "mrr")
