"""Paired comparisons: against plain loops, and against scipy's values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from multitask.measure.bootstrap import INTERVAL_SEED, two_sided_p
from multitask.measure.compare import Answered, compare, holm, mcnemar
from multitask.measure.metrics import Predicted
from multitask.tasks.labels import LabelSpec
from multitask.tasks.table import TASKS

RANDOM = np.random.default_rng(4)
SEVERAL = LabelSpec("multilabel", "tones", 0, 2, words=("a", "b", "c"))


def classes(task: str, count: int, *shares_right: float) -> Answered:
    """Models that are right as often as that, on the rows of a task of classes."""
    labels = RANDOM.integers(0, 2, count).astype(float)
    given = [np.where(RANDOM.random(count) < share, labels, 1 - labels) for share in shares_right]
    return Answered(TASKS[task], labels, [Predicted(torch.tensor(one)) for one in given])


def scores(count: int, *noises: float) -> Answered:
    labels = RANDOM.random(count) * 5
    given = [labels + noise * RANDOM.standard_normal(count) for noise in noises]
    return Answered(TASKS["sts"], labels, [Predicted(torch.tensor(one)) for one in given])


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (0, 5), (12, 30), (30, 12), (400, 391), (7, 7)])
def test_mcnemars_exact_test_is_the_binomial_one(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_test_of_very_many_rows_has_a_value() -> None:
    assert mcnemar(3000, 2500) == pytest.approx(binomtest(3000, 5500).pvalue, rel=1e-9)
    assert mcnemar(60_000, 60_500) == pytest.approx(binomtest(60_000, 120_500).pvalue, rel=1e-9)
    assert mcnemar(60_000, 60_000) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1.0] * 99, 0.02), ([-1.0] * 99, 0.02), ([0.0] * 99, 1.0), ([-1.0] + [1.0] * 98, 0.04), ([np.nan, 1.0], 1.0)],
)
def test_p_of_resampled_differences(differences: list[float], p: float) -> None:
    assert two_sided_p(np.array(differences)) == pytest.approx(p)
    assert two_sided_p(np.array([np.nan])) is None


def plain_loop(task: Answered, resamples: int, model: int) -> list[float]:
    """A metric's difference over resampled rows, a resample at a time."""
    random, differences = np.random.default_rng((INTERVAL_SEED, *task.spec.name.encode())), []
    for _ in range(resamples):
        picks = random.integers(0, len(task.labels), len(task.labels))
        values = []
        for predicted in (task.predicted[0], task.predicted[model]):
            given, wanted = predicted.labels.numpy()[picks], task.labels[picks]
            right = task.spec.metric == "accuracy"
            values.append(float(np.mean(given == wanted)) if right else float(np.corrcoef(given, wanted)[0, 1]))
        differences.append(values[1] - values[0])
    return differences


@pytest.mark.parametrize("task", [classes("sst", 90, 0.6, 0.7, 0.61), scores(90, 1.0, 1.5, 1.0)], ids=["sst", "sts"])
def test_the_paired_bootstrap_is_a_plain_loops(task: Answered) -> None:
    found = compare([task], resamples=200)
    assert [one.model for one in found] == [1, 2]
    for one in found:
        expected = plain_loop(task, 200, one.model)
        low, high = np.quantile(expected, [0.025, 0.975])
        assert one.interval == pytest.approx((low, high), abs=1e-12)
        signs = min(sum(value <= 0 for value in expected), sum(value >= 0 for value in expected))
        assert one.p == pytest.approx(min(1, 2 * (signs + 1) / 201))


def test_overall_scores_are_the_means_of_independently_drawn_tasks() -> None:
    tasks = [classes("sst", 80, 0.6, 0.9), classes("quora", 80, 0.6, 0.7), scores(80, 1.0, 2.0)]
    found = {one.metric: one for one in compare(tasks, resamples=200)}
    assert list(found)[-2:] == ["overall/mean", "overall/normalised"]
    mapped = [found[key].difference for key in ("sst/accuracy", "quora/accuracy", "sts/pearson")]
    assert found["overall/mean"].difference == pytest.approx(np.sum(mapped) / 3)
    assert found["overall/normalised"].difference == pytest.approx((mapped[0] + mapped[1] + mapped[2] / 2) / 3)  # type: ignore[operator]
    loops = [np.array(plain_loop(task, 200, 1)) for task in tasks]
    interval = np.quantile((loops[0] + loops[1] + loops[2] / 2) / 3, [0.025, 0.975])
    assert found["overall/normalised"].interval == pytest.approx(interval, abs=1e-12)
    assert abs(np.corrcoef(loops[0], loops[1])[0, 1]) < 0.3, "tasks of as many rows are not drawn alike"


def test_overall_scores_are_of_what_a_recipe_makes_them_of() -> None:
    sst, quora = classes("sst", 80, 0.6, 0.9), classes("quora", 80, 0.6, 0.7)
    found = {one.metric: one for one in compare([sst, quora], ["sst/pearson", "quora/accuracy"], resamples=200)}
    assert list(found) == ["sst/accuracy", "sst/pearson", "quora/accuracy", "overall/mean", "overall/normalised"]
    of_sst, of_quora = found["sst/pearson"].difference, found["quora/accuracy"].difference
    assert of_sst is not None and of_quora is not None
    assert found["overall/mean"].difference == pytest.approx((of_sst + of_quora) / 2)
    assert found["overall/normalised"].difference == pytest.approx((of_sst / 2 + of_quora) / 2)
    assert found["sst/accuracy"].sides and found["sst/pearson"].sides is None
    assert "overall/mean" not in {one.metric for one in compare([sst], ["sst/pearson", "quora/accuracy"], resamples=9)}


def test_a_model_against_itself_differs_in_nothing() -> None:
    (one,) = compare([replace(task := classes("quora", 60, 0.7), predicted=[task.predicted[0]] * 2)], resamples=100)
    assert (one.difference, one.interval, one.p) == (0.0, (0.0, 0.0), 1.0)
    assert one.sides and (one.sides.gained, one.sides.lost, one.sides.p) == (0, 0, 1.0)


def test_p_is_adjusted_for_every_metric_and_model() -> None:
    found = compare([classes("sst", 200, 0.5, 0.65, 0.5), scores(100, 1.0, 1.01, 3.0)], resamples=300)
    assert [one.p_holm for one in found] == holm([one.p for one in found if one.p is not None])
    sides = [one.sides for one in found if one.sides]
    assert len(sides) == 2, "scores are no decisions"
    assert [one.p_holm for one in sides] == holm([one.p for one in sides])


def test_rows_change_sides_in_all_classes_of_several() -> None:
    labels: Any = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], float)
    before, after = labels.copy(), labels.copy()
    before[0, 0], after[2, 1], before[3, 0] = 0, 0, 1
    spec = replace(TASKS["sst"], name="tones", label=SEVERAL, metric="f1_micro")
    given = [Predicted(torch.tensor(one), torch.tensor(one)) for one in (before, after)]
    (one,) = compare([Answered(spec, labels, given)], resamples=50)
    assert one.sides and (one.sides.gained, one.sides.lost) == (2, 1) and one.difference is not None


def test_a_third_models_missing_value_takes_nothing_from_the_others() -> None:
    task = scores(50, 1.0, 1.2)
    constant = Predicted(torch.zeros(50, dtype=torch.float64))
    alone, (first, second) = (
        compare([task], resamples=99)[0],
        compare([replace(task, predicted=[*task.predicted, constant])], resamples=99),
    )
    assert (first.interval, first.p, first.p_holm) == (alone.interval, alone.p, alone.p_holm) and first.p is not None
    assert second.why == "constant prediction 0.0" and second.p is None and second.interval is None


def test_no_rows_at_all_have_no_value() -> None:
    task = classes("sst", 9, 0.5, 0.5)
    (one,) = compare([task.of(np.zeros(9, bool))], resamples=9)
    assert (one.rows, one.why, one.p) == (0, "no examples", None)
    assert one.sides is None, "no row, no side"


def test_what_has_no_value_says_why() -> None:
    task = scores(50, 1.0, 1.0)
    constant = Predicted(torch.zeros(50, dtype=torch.float64))
    tasks = [classes("sst", 50, 0.5, 0.5), classes("quora", 50, 0.5, 0.5)]
    found = compare([*tasks, replace(task, predicted=[task.predicted[0], constant])], resamples=50)
    by_name = {one.metric: one for one in found}
    assert by_name["sts/pearson"].why == "constant prediction 0.0" and by_name["sts/pearson"].p is None
    assert by_name["overall/mean"].why == "sts/pearson undefined" and by_name["overall/mean"].interval is None
    assert by_name["sst/accuracy"].p is not None


def test_some_rows_alone() -> None:
    task = classes("quora", 40, 0.5, 0.9)
    rows = np.arange(40) % 2 == 0
    some = task.of(rows)
    assert np.array_equal(some.labels, task.labels[::2]) and len(some.predicted) == 2
    assert torch.equal(some.predicted[1].labels, task.predicted[1].labels[::2])
