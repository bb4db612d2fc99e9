"""Hard negatives: sentences that the data calls dissimilar to one of a pair's two, drawn by (seed, row) alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.negatives import HardNegatives
from multitask.data.tokens import TokenTable
from multitask.tasks.table import TASKS
from tests.helpers import table_of

QUORA, STS = TASKS["quora"].label, TASKS["sts"].label
# (first sentence, second sentence, label); a sentence is one token here
PAIRS = [(1, 2, 1), (1, 3, 0), (4, 2, 0), (5, 6, 1), (7, 8, 0), (9, 1, 1), (1, 1, 0)]


def table(pairs: list[tuple[int, int, float]]) -> TokenTable:
    return table_of([[token] for pair in pairs for token in pair[:2]], [label for *_, label in pairs])


def drawn(pairs: list[tuple[int, int, float]], rows: list[int], seed: int = 0) -> list[int]:
    """The hard negatives' tokens."""
    found = table(pairs)
    at = HardNegatives.of(found, np.arange(len(found)), QUORA).draw(np.array(rows, np.int64), seed)
    return [int(found.sentence(int(index))[0]) for index in at]


def test_a_negative_is_the_partner_in_a_dissimilar_pair_of_either_sentence() -> None:
    seen = {token for seed in range(60) for token in drawn(PAIRS, [0], seed)}
    assert seen == {3, 4, 1}  # 1 is called dissimilar to itself: what the data says, the loss masks
    assert {token for seed in range(60) for token in drawn(PAIRS, [5], seed)} == {3, 1}


def test_a_pair_without_one_draws_none() -> None:
    assert drawn(PAIRS, [3]) == []
    assert drawn(PAIRS, []) == []
    assert len(drawn(PAIRS, [3, 0, 3])) == 1


def test_rows_that_the_stage_does_not_use_give_none() -> None:
    found = table(PAIRS)
    negatives = HardNegatives.of(found, np.array([0, 2, 3, 4]), QUORA)  # without (1, 3) and (1, 1)
    for seed in range(20):
        (at,) = negatives.draw(np.array([0]), seed)
        assert found.sentence(int(at)).tolist() == [4]


def test_only_the_lowest_label_is_dissimilar() -> None:
    pairs = [(1, 2, 5.0), (1, 3, 3.0), (2, 4, 0.5), (1, 5, 0.0)]
    found = table(pairs)
    negatives = HardNegatives.of(found, np.arange(4), STS)
    for seed in range(20):
        (at,) = negatives.draw(np.array([0]), seed)
        assert found.sentence(int(at)).tolist() == [5]


pairs = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0, 1])), min_size=2, max_size=30)


@given(pairs, st.integers(0, 2**62), st.data())
def test_a_draw_is_by_seed_and_row_whichever_rank_asks(
    pairs: list[tuple[int, int, float]], seed: int, data: st.DataObject
) -> None:
    rows = [row for row, pair in enumerate(pairs) if pair[2] == 1]
    some = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    assert sorted(drawn(pairs, rows, seed)) == sorted(drawn(pairs, some[:cut], seed) + drawn(pairs, some[cut:], seed))


@given(pairs, st.integers(0, 2**62))
def test_each_drawn_one_is_dissimilar_to_its_pair(pairs: list[tuple[int, int, float]], seed: int) -> None:
    apart = {frozenset(pair[:2]) for pair in pairs if pair[2] == 0}
    for first, second, label in pairs:
        row = pairs.index((first, second, label))
        for negative in drawn(pairs, [row], seed):
            assert frozenset((negative, first)) in apart or frozenset((negative, second)) in apart
