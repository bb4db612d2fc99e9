"""Samplers: every example once, the same batches for any number of ranks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.mixing import plan_epoch
from multitask.data.samplers import (
    POOL_BATCHES,
    EpochBatches,
    Rows,
    derive_seed,
    eval_batches,
    rank_slice,
    subset,
)

lengths = st.lists(st.integers(1, 512), min_size=1, max_size=300).map(lambda values: np.array(values, np.int64))
sizes, seeds, worlds = st.integers(1, 40), st.integers(0, 2**63 - 1), st.integers(1, 9)


def equal(one: list[Rows], other: list[Rows]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@given(lengths, sizes, seeds)
def test_an_epoch_holds_every_row_once_in_full_batches_but_one(lengths: Rows, size: int, seed: int) -> None:
    batches = EpochBatches(lengths, size, seed)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


@given(lengths, sizes, seeds)
def test_a_batch_comes_longest_first(lengths: Rows, size: int, seed: int) -> None:
    assert all((np.diff(lengths[batch]) <= 0).all() for batch in EpochBatches(lengths, size, seed))


@given(lengths, sizes, seeds)
def test_the_seed_alone_says_which_batches(lengths: Rows, size: int, seed: int) -> None:
    assert equal(EpochBatches(lengths, size, seed), EpochBatches(lengths.copy(), size, seed))


@given(seeds)
def test_another_epoch_has_other_batches(seed: int) -> None:
    lengths = np.arange(1, 201)
    one, two = (EpochBatches(lengths, 8, derive_seed(seed, "para", epoch)) for epoch in (0, 1))
    assert not equal(one, two)


def by_loops(lengths: Rows, size: int, seed: int) -> list[Rows]:
    """The batches that builds before made, all at once."""
    generator, batches = np.random.default_rng(seed), []
    shuffled = generator.permutation(len(lengths))
    for start in range(0, len(lengths), POOL_BATCHES * size):
        rows = shuffled[start : start + POOL_BATCHES * size]
        rows = rows[np.argsort(-lengths[rows], kind="stable")]
        batches += [rows[at : at + size] for at in range(0, len(rows), size)]
    return [batches[at] for at in generator.permutation(len(batches))]


@given(lengths, sizes, seeds, st.sampled_from([np.int16, np.int32, np.int64]))
def test_they_are_what_they_were_before_they_were_made_one_by_one(
    lengths: Rows, size: int, seed: int, kind: type[np.signedinteger[Any]]
) -> None:
    found = EpochBatches(lengths.astype(kind), size, seed)
    assert equal([*found], by_loops(lengths, size, seed)) and found[0].dtype == np.int64


def test_a_plan_holds_four_bytes_a_row_and_some_a_batch() -> None:
    rows = 1_000_000
    plan = plan_epoch("proportional", {"quora": np.ones(rows, np.int32)}, 32, 1, 0, 1)
    held = [plan.turns, plan.numbers, *(part for one in plan.sources for part in (one.rows, one.order))]
    assert sum(part.nbytes for part in held) <= 4 * rows + 10 * len(plan)


def test_batches_are_bucketed_by_length_and_still_mixed() -> None:
    lengths = np.random.default_rng(1).integers(3, 60, 8 * POOL_BATCHES * 3)
    batches = EpochBatches(lengths, 8, seed=5)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()
    longest = [lengths[batch].max() for batch in batches]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


@given(st.integers(1, 100), worlds)
def test_the_ranks_slices_are_the_global_batch(size: int, world: int) -> None:
    rows = np.random.default_rng(size).permutation(1000)[:size]
    slices = [rank_slice(rows, rank, world) for rank in range(world)]
    counted = np.concatenate([mine[weights > 0] for mine, weights in slices])
    assert sorted(counted) == sorted(rows)
    for rank, (mine, weights) in enumerate(slices):
        assert len(mine) == len(weights) > 0
        assert weights.dtype == np.float32
        if rank < size:
            assert (weights == 1).all()
        else:  # takes part in the reduction, adds nothing
            assert (mine.tolist(), weights.tolist()) == ([rows[0]], [0.0])
    assert max(len(mine) for mine, _ in slices) == math.ceil(size / world)


@given(lengths, st.integers(1, 4096))
def test_evaluation_covers_every_row_once_within_its_budget(lengths: Rows, tokens: int) -> None:
    batches = eval_batches(lengths, tokens)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= tokens for batch in batches)


def test_there_is_nothing_to_evaluate_in_an_empty_file() -> None:
    assert eval_batches(np.array([], np.int64), 100) == []


@given(st.integers(0, 200), st.none() | st.integers(1, 250), seeds)
def test_a_subset_is_capped_sorted_and_the_same_each_time(rows: int, cap: int | None, seed: int) -> None:
    drawn = subset(rows, cap, seed)
    assert len(drawn) == min(rows, rows if cap is None else cap)
    assert (np.diff(drawn) > 0).all()
    assert np.isin(drawn, np.arange(rows)).all()
    assert np.array_equal(drawn, subset(rows, cap, seed))


def test_subsets_of_two_seeds_differ_and_reach_the_whole_file() -> None:
    one, two = subset(1000, 50, 1), subset(1000, 50, 2)
    assert not np.array_equal(one, two)
    assert one.max() > 800  # not the first fifty


@given(st.lists(st.text(max_size=5) | st.integers(), min_size=1, max_size=4))
def test_a_derived_seed_is_a_63_bit_number_of_all_parts(parts: list[object]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*parts)
    assert seed != derive_seed(*parts, 0)


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(11711, "para", 0) == 625780537522973522
