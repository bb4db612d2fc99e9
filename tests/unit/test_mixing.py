"""Mixing: how the batches of several tasks follow each other, by (mixing, sizes, epoch, seed) alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from multitask.data.mixing import LAST_ALPHA, WEIGHTS, batch_counts, batches_in, order, plan_epoch, plan_together
from multitask.data.samplers import EpochBatches, Rows

TASKS = ("sst", "quora", "sts", "cfimdb")
sizes = st.dictionaries(st.sampled_from(TASKS), st.integers(1, 3000), min_size=1)
small = st.dictionaries(st.sampled_from(TASKS), st.integers(1, 90), min_size=2)
names, seeds = st.sampled_from(sorted(WEIGHTS)), st.integers(0, 2**63 - 1)
weights = st.fixed_dictionaries({task: st.floats(1e-3, 1e3) for task in TASKS})


def lengths(rows: dict[str, int]) -> dict[str, Rows]:
    return {task: np.random.default_rng(count).integers(3, 60, count) for task, count in rows.items()}


def rows_of(plan: list[tuple[str, Rows]], task: str) -> Counter[int]:
    return Counter(int(row) for name, rows in plan for row in rows if name == task)


@given(names, weights, st.booleans(), sizes, st.data())
def test_counts_sum_to_the_files_and_leave_no_task_out(
    name: str, drawn: dict[str, float], mapped: bool, sizes: dict[str, int], data: st.DataObject
) -> None:
    mixing = {task: drawn[task] for task in sizes} if mapped else name
    epochs = data.draw(st.integers(1, 12))
    for epoch in range(epochs):
        counts = batch_counts(mixing, sizes, epoch, epochs)
        assert counts.keys() == sizes.keys()
        assert sum(counts.values()) == sum(sizes.values())
        assert min(counts.values()) >= 1


@given(st.sampled_from(["round-robin", "proportional"]), sizes, st.integers(0, 9))
def test_proportional_counts_are_the_files_own(name: str, sizes: dict[str, int], epoch: int) -> None:
    assert batch_counts(name, sizes, epoch, 10) == sizes


@given(weights, sizes)
def test_weights_say_each_tasks_share(drawn: dict[str, float], sizes: dict[str, int]) -> None:
    mixing = {task: drawn[task] for task in sizes}
    total, whole = sum(sizes.values()), sum(mixing.values())
    shares = {task: total * weight / whole for task, weight in mixing.items()}
    assume(min(shares.values()) >= 1)  # no task has to be rescued
    counts = batch_counts(mixing, sizes, 0, 1)
    assert all(abs(counts[task] - share) < 1 for task, share in shares.items())


def test_weights_by_hand() -> None:
    assert batch_counts({"sst": 1, "quora": 3}, {"sst": 50, "quora": 10}, 0, 1) == {"sst": 15, "quora": 45}
    assert batch_counts({"sst": 1, "quora": 1e6}, {"sst": 50, "quora": 10}, 0, 1) == {"sst": 1, "quora": 59}
    assert batch_counts({"sst": 1, "quora": 1, "sts": 1}, {"sst": 5, "quora": 2, "sts": 1}, 0, 1) == {
        "sst": 3, "quora": 3, "sts": 2,
    }  # fmt: skip


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(2, 12))
def test_annealed_goes_from_proportional_towards_equal(small: int, large: int, epochs: int) -> None:
    sizes = {"sst": min(small, large), "quora": max(small, large)}
    counts = [batch_counts("annealed", sizes, epoch, epochs) for epoch in range(epochs)]
    assert counts[0] == sizes
    shares = [count["sst"] for count in counts]
    assert shares == sorted(shares)
    last = sum(sizes.values()) / (1 + (sizes["quora"] / sizes["sst"]) ** LAST_ALPHA)
    assert abs(shares[-1] - max(last, 1)) < 1
    assert shares[-1] <= counts[-1]["quora"] + 1  # equal at most


def test_annealed_by_hand() -> None:
    """Stickland and Murray (2019): alpha = 1 - 0.8 (e - 1) / (E - 1)."""
    assert batch_counts("annealed", {"sst": 32, "quora": 1024}, 2, 3) == {"sst": 352, "quora": 704}  # 32^.2 = 2, 4
    assert batch_counts("annealed", {"sst": 1, "quora": 9}, 0, 1) == {"sst": 1, "quora": 9}


@given(sizes)
def test_round_robin_takes_one_of_each_until_it_is_used_up(sizes: dict[str, int]) -> None:
    tasks, left = order("round-robin", sizes, seed=0), dict(sizes)
    while left:
        turn, tasks = tasks[: len(left)], tasks[len(left) :]
        assert turn == list(left)
        left = {task: count - 1 for task, count in left.items() if count > 1}
    assert not tasks


@given(st.sampled_from(["proportional", "annealed"]), sizes, seeds)
def test_other_mixings_are_shuffled(name: str, sizes: dict[str, int], seed: int) -> None:
    assert Counter(order(name, sizes, seed)) == sizes
    assert order(name, sizes, seed) == order(name, sizes, seed)


def test_another_seed_is_another_order() -> None:
    assert order("proportional", {"sst": 20, "quora": 20}, 1) != order("proportional", {"sst": 20, "quora": 20}, 2)


@given(st.sampled_from(["round-robin", "proportional"]), small, st.integers(1, 20), seeds)
def test_an_epoch_holds_every_row_once(name: str, rows: dict[str, int], size: int, seed: int) -> None:
    plan = plan_epoch(name, lengths(rows), size, seed, 1, 3)
    for task, count in rows.items():
        assert rows_of(plan, task) == Counter(range(count))
    assert all(len(batch) <= size for _, batch in plan)


@given(names, small, st.integers(1, 20), seeds, st.integers(1, 4))
def test_steps_per_epoch_are_the_same_in_every_epoch(
    name: str, rows: dict[str, int], size: int, seed: int, epochs: int
) -> None:
    steps = sum(batches_in(count, size) for count in rows.values())
    for epoch in range(epochs):
        assert len(plan_epoch(name, lengths(rows), size, seed, epoch, epochs)) == steps


@given(small, st.integers(1, 20), seeds)
def test_steps_of_a_batch_a_task_pass_through_all_tasks_evenly(rows: dict[str, int], size: int, seed: int) -> None:
    steps = -(-sum(batches_in(count, size) for count in rows.values()) // len(rows))
    plan = plan_together(lengths(rows), size, seed, steps)
    assert [task for task, _ in plan] == list(rows) * steps
    for task, count in rows.items():
        found = rows_of(plan, task)
        counts = [found[row] for row in range(count)]
        assert max(counts) - min(counts) <= 1
    again = plan_together(lengths(rows), size, seed, steps)
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(plan, again, strict=True))


@given(small, st.integers(1, 20), seeds)
def test_a_task_drawn_more_often_is_passed_through_evenly(rows: dict[str, int], size: int, seed: int) -> None:
    """With more batches than it has it starts again: no row comes twice more often than another."""
    favoured = min(rows)
    mixing = {task: 100.0 if task == favoured else 1e-3 for task in rows}
    found = rows_of(plan_epoch(mixing, lengths(rows), size, seed, 0, 1), favoured)
    counts = [found[row] for row in range(rows[favoured])]
    assert max(counts) - min(counts) <= 1
    others = Counter({task: sum(rows_of(plan_epoch(mixing, lengths(rows), size, seed, 0, 1), task).values())
                      for task in rows if task != favoured})  # fmt: skip
    assert all(count <= size for count in others.values())  # one batch each: cut, not left out


@given(names, small, seeds)
def test_the_same_seed_is_the_same_plan(name: str, rows: dict[str, int], seed: int) -> None:
    one, two = (plan_epoch(name, lengths(rows), 8, seed, 1, 3) for _ in range(2))
    assert [(task, batch.tolist()) for task, batch in one] == [(task, batch.tolist()) for task, batch in two]


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_two_passes_over_a_task_and_two_seeds_are_shuffled_differently(name: str) -> None:
    rows = {"sst": 40, "quora": 400}
    one, two = (plan_epoch(name, lengths(rows), 8, seed, 1, 2) for seed in (1, 2))
    assert [batch.tolist() for _, batch in one] != [batch.tolist() for _, batch in two]
    many = [batch.tolist() for task, batch in plan_epoch({"sst": 1, "quora": 1}, lengths(rows), 8, 1, 0, 1)
            if task == "sst"]  # fmt: skip
    assert len(many) == 28 and many[:5] != many[5:10]


def test_one_task_alone_is_all_of_it_once_as_ever() -> None:
    alone = lengths({"sst": 90})
    for mixing in (*WEIGHTS, {"sst": 3.0}):
        plan = plan_epoch(mixing, alone, 8, 5, 0, 1)
        assert {task for task, _ in plan} == {"sst"}
        expected = EpochBatches(alone["sst"], 8, 5)
        assert all(np.array_equal(batch, wanted) for (_, batch), wanted in zip(plan, expected, strict=True))


def test_a_plan_holds_more_tasks_than_a_byte_counts() -> None:
    many = lengths({f"task{at}": 3 for at in range(300)})
    assert {task for task, _ in plan_epoch("proportional", many, 8, 1, 0, 1)} == set(many)
    assert [task for task, _ in plan_together(many, 8, 1, 2)] == [*many] * 2
