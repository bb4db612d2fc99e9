"""Losses and metrics against hand-computed cases, and what must hold of them for any numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from multitask.measure.bootstrap import share_interval
from multitask.measure.metrics import (
    METRICS,
    Floats,
    Predicted,
    Score,
    bootstrap_interval,
    majority_baseline,
    overall,
    score,
)
from multitask.objectives.losses import LOSSES

LOG2 = math.log(2)
CASES = {
    # outputs, labels, loss of each example
    "cross_entropy": (
        [[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]],
        [0, 0, 0],
        [LOG2, math.log(4 / 3), math.log(4)],
    ),
    "bce": ([0.0, math.log(3), math.log(3)], [1, 1, 0], [LOG2, math.log(4 / 3), math.log(4)]),
    "bce of several": (
        [[0.0, math.log(3)], [0.0, math.log(3)], [math.log(3), -math.log(3)]],
        [[1, 1], [0, 0], [0, 1]],
        [(LOG2 + math.log(4 / 3)) / 2, (LOG2 + math.log(4)) / 2, math.log(4)],
    ),
    # Of three equal classes each is likely by a third, what lies above or below a step by one or two.
    "ordinal": (
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [math.log(2), 0.0, 0.0]],
        [0, 1, 2],
        [(math.log(3) + math.log(1.5)) / 2, math.log(1.5), (LOG2 + math.log(4)) / 2],
    ),
    "focal": (
        [[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]],
        [0, 0, 0],
        [LOG2 / 4, math.log(4 / 3) / 16, math.log(4) * 9 / 16],
    ),
    "focal of yes or no": (
        [0.0, math.log(3), math.log(3)],
        [1, 1, 0],
        [LOG2 / 4, math.log(4 / 3) / 16, math.log(4) * 9 / 16],
    ),
    "focal of several": (
        [[0.0, math.log(3)], [0.0, 0.0], [math.log(3), -math.log(3)]],
        [[1, 1], [0, 1], [0, 1]],
        [(LOG2 / 4 + math.log(4 / 3) / 16) / 2, LOG2 / 4, math.log(4) * 9 / 16],
    ),
    "mse": ([1.0, 4.5, 5.0], [3, 4, 5], [4.0, 0.25, 0.0]),
    "cosine_mse": ([1.0, 4.5, 5.0], [3, 4, 5], [0.16, 0.01, 0.0]),
}


def case(name: str) -> tuple[Tensor, Tensor, Tensor]:
    outputs, labels, losses = (torch.tensor(values, dtype=torch.float64) for values in CASES[name])
    return outputs, labels, losses


def loss_of(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    return LOSSES[name.partition(" ")[0]].sums


def test_every_loss_has_a_case() -> None:
    of_examples = {name for name, loss in LOSSES.items() if loss.similarity is None}
    assert {name.partition(" ")[0] for name in CASES} == of_examples  # those of pairs: test_task_losses.py


@pytest.mark.parametrize("name", CASES)
def test_loss_by_hand(name: str) -> None:
    outputs, labels, expected = case(name)
    total, count = loss_of(name)(outputs, labels, torch.ones(3, dtype=torch.float64))
    assert total.item() == pytest.approx(expected.sum().item(), abs=1e-12)
    assert count.item() == 3


@pytest.mark.parametrize("name", CASES)
def test_weights_leave_examples_out_and_sums_add_up(name: str) -> None:
    outputs, labels, expected = case(name)
    total, count = loss_of(name)(outputs, labels, torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64))
    assert total.item() == pytest.approx((expected[0] + expected[2] / 2).item(), abs=1e-12)
    assert count.item() == 1.5


@pytest.mark.parametrize("name", CASES)
def test_an_example_left_out_has_no_gradient(name: str) -> None:
    outputs, labels, _ = case(name)
    outputs.requires_grad_()
    loss_of(name)(outputs, labels, torch.tensor([1.0, 0.0, 1.0]))[0].backward()
    assert outputs.grad is not None and outputs.grad[1].eq(0).all() and outputs.grad[0].ne(0).any()


@pytest.mark.parametrize("name", CASES)
def test_half_precision_outputs_are_summed_in_float32(name: str) -> None:
    outputs, labels, _ = case(name)
    total, _ = loss_of(name)(outputs.bfloat16(), labels.float(), torch.ones(3))
    assert total.dtype == torch.float32


def scored(metric: str, predictions: ArrayLike, labels: ArrayLike) -> Score:
    return score(metric, Predicted(torch.as_tensor(np.asarray(predictions, np.float64))), labels)


def test_metrics_by_hand() -> None:
    assert scored("accuracy", [1, 2, 3, 0], [1, 2, 0, 0]).value == 0.75
    assert scored("pearson", [1, 2, 3], [2, 4, 7]).value == pytest.approx(5 / math.sqrt(2 * 38 / 3))
    assert scored("pearson", [1.0, 2.0], np.array([5.0, 3.0])).value == pytest.approx(-1.0)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5)), min_size=3, max_size=40),
    st.floats(0.1, 10),
    st.floats(-100, 100),
)
def test_pearson_agrees_with_numpy_and_ignores_scale(
    pairs: list[tuple[float, float]], scale: float, shift: float
) -> None:
    x, y = np.array(pairs).T
    if min(x.std(), y.std()) < 1e-3:
        return
    value = scored("pearson", x, y).value
    assert value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
    assert scored("pearson", scale * x + shift, y).value == pytest.approx(value, abs=1e-6)


def test_pearson_keeps_float64_far_from_zero() -> None:
    x = np.arange(1000) * 1e-3 + 1e6
    assert scored("pearson", x, np.arange(1000)).value == pytest.approx(1.0, abs=1e-9)


# Of several yes or no: scikit-learn's.
THEIRS: dict[str, Callable[[Floats, Floats], float]] = {
    "f1_micro": lambda logits, labels: f1_score(labels, logits > 0, average="micro", zero_division=0),
    "f1_macro": lambda logits, labels: f1_score(labels, logits > 0, average="macro", zero_division=0),
    "average_precision": lambda logits, labels: average_precision_score(labels, logits, average="macro"),
}


def several(seed: int, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Logits, many of them equal, and labels: every class is there and, seldom, all of them or none."""
    random = np.random.default_rng(seed)
    logits = np.round(random.normal(-0.5, 1, shape), 1)
    labels = (logits + random.normal(0, 1, shape) > 0.7).astype(np.float64)
    labels[..., 0, :], labels[..., 1, :] = 1, 0
    return logits, labels


@pytest.mark.parametrize("metric", THEIRS)
@pytest.mark.parametrize(("seed", "shape"), [(0, (40, 3)), (1, (200, 7)), (2, (2, 2)), (3, (9, 20))])
def test_metrics_of_several_are_scikit_learns(metric: str, seed: int, shape: tuple[int, int]) -> None:
    logits, labels = several(seed, shape)
    predicted = Predicted(torch.tensor(logits > 0).double(), torch.tensor(logits))
    found = score(metric, predicted, labels)
    assert found.value == pytest.approx(THEIRS[metric](logits, labels), abs=1e-12)
    if len(logits) > 9:
        assert found.value is not None and found.interval is not None
        assert found.interval[0] < found.value < found.interval[1]


@pytest.mark.parametrize("metric", THEIRS)
def test_metrics_of_several_take_resamples_at_once_and_leave_out_classes_without_a_label(metric: str) -> None:
    logits, labels = several(4, (5, 30, 4))
    given = logits if metric == "average_precision" else (logits > 0).astype(np.float64)
    function = METRICS[metric].several
    assert function
    whole = function(given, labels)
    assert whole.shape == (5,)
    assert whole.tolist() == [float(function(one, of_one)) for one, of_one in zip(given, labels, strict=True)]
    without = labels * [1, 1, 0, 1]  # nobody has the third class
    others = function(given[..., [0, 1, 3]], labels[..., [0, 1, 3]])
    if metric != "f1_micro":  # of which a wrong one is wrong, whatever its class
        np.testing.assert_allclose(function(given, without), others, rtol=1e-12)
    assert np.isnan(function(given, labels * 0)).all()


def test_metrics_of_several_where_no_label_has_a_class() -> None:
    predicted = Predicted(torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    for metric in THEIRS:
        assert score(metric, predicted, np.zeros((2, 2))) == Score(None, "no label has any class", None)


@pytest.mark.parametrize(
    ("metric", "predictions", "labels", "why"),
    [
        ("pearson", [3, 3, 3], [1, 2, 3], "constant prediction 3.0"),
        ("pearson", [1, 2, 3], [4, 4, 4], "constant label 4.0"),
        ("pearson", [1, math.nan, 3], [1, 2, 3], "1 of 3 predictions are not finite"),
        ("accuracy", [], [], "no examples"),
    ],
)
def test_no_value_comes_with_its_reason(metric: str, predictions: list, labels: list, why: str) -> None:
    assert scored(metric, predictions, labels) == Score(None, why, None)


def test_majority_baseline() -> None:
    assert majority_baseline([0, 1, 1, 4], "classes") == 0.5
    assert majority_baseline([0, 0, 1], "binary") == pytest.approx(2 / 3)
    assert majority_baseline([0.0, 0.0, 1.0], "score") is None
    assert majority_baseline([[0, 1], [0, 1], [1, 1]], "multilabel") is None


def test_overall_scores_of_both_papers() -> None:
    """The last row of bertaar's table: .282 / .803 / .365 -> .589 in the paper, normalised."""
    measured = {"sst/accuracy": 0.282, "quora/accuracy": 0.803, "sts/pearson": 0.365, "cfimdb/accuracy": 1.0}
    scores = overall(measured)
    assert scores["overall/mean"] == pytest.approx((0.282 + 0.803 + 0.365) / 3)
    assert scores["overall/normalised"] == pytest.approx(0.589, abs=5e-4)
    assert overall({**measured, "sts/pearson": None}) == dict.fromkeys(scores)
    assert overall({"sst/accuracy": 0.5}) == dict.fromkeys(scores)


@pytest.mark.parametrize("metric", ["accuracy", "pearson"])
def test_bootstrap_is_deterministic_and_brackets_the_value(metric: str) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 500)
    predictions = np.where(random.random(500) < 0.7, labels, random.integers(0, 5, 500))
    interval = bootstrap_interval(metric, predictions, labels, seed=1)
    assert interval is not None and interval == bootstrap_interval(metric, predictions, labels, seed=1)
    assert interval != bootstrap_interval(metric, predictions, labels, seed=2)
    low, high = interval
    value = scored(metric, predictions, labels).value
    assert value is not None and low < value < high and high - low < 0.2


def test_bootstrap_width_is_the_binomials() -> None:
    """A share p of n examples has a standard error of sqrt(p (1 - p) / n)."""
    labels = np.ones(20_000)
    predictions = (np.arange(20_000) % 4 > 0).astype(float)
    interval = bootstrap_interval("accuracy", predictions, labels, seed=0, resamples=400)
    assert interval is not None
    expected = 2 * 1.96 * math.sqrt(0.75 * 0.25 / 20_000)
    assert interval[1] - interval[0] == pytest.approx(expected, rel=0.15)


def test_a_perfect_accuracy_has_wilsons_interval() -> None:
    """By hand: 1 / (1 + z^2 / n) with z = 1.96 is the lower end at 1; 40 of 40 are .912 .. 1."""
    right = np.ones(40)
    assert bootstrap_interval("accuracy", right, right, 1) == pytest.approx((1 / (1 + 1.959964**2 / 40), 1), abs=1e-6)
    assert bootstrap_interval("accuracy", right, 0 * right, 1) == pytest.approx((0, 0.0876), abs=1e-4)
    assert share_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    line = np.arange(5.0)
    assert bootstrap_interval("pearson", line, line, 1) is None, "a perfect r has no spread to show"
