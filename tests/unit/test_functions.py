"""Every metric of every kind of label against scikit-learn or scipy, on random, tied, constant and one-sided input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as peer

from multitask.measure import functions
from multitask.measure.classes import by_class
from multitask.measure.metrics import METRICS, Floats, Predicted, goodness, normalised, score
from multitask.tasks.labels import KINDS, RANKINGS, KindName, LabelSpec

Theirs = Callable[[Floats, Floats], float]  # (labels, predicted labels or logits) -> value

CLASSES: dict[str, Theirs] = {
    "accuracy": peer.accuracy_score,
    "pearson": lambda wanted, given: stats.pearsonr(wanted, given).statistic,
    "balanced_accuracy": peer.balanced_accuracy_score,
    "f1_macro": partial(peer.f1_score, average="macro", zero_division=0),
    "f1_weighted": partial(peer.f1_score, average="weighted", zero_division=0),
    "precision_macro": partial(peer.precision_score, average="macro", zero_division=0),
    "recall_macro": partial(peer.recall_score, average="macro", zero_division=0),
    "mcc": peer.matthews_corrcoef,
    "spearman": lambda wanted, given: stats.spearmanr(wanted, given).statistic,
    "kendall": lambda wanted, given: stats.kendalltau(wanted, given).statistic,
    "mae": peer.mean_absolute_error,
    "mse": peer.mean_squared_error,
    "auc": lambda wanted, logits: peer.roc_auc_score(wanted, softmax(logits), multi_class="ovr"),
    "log_loss": lambda wanted, logits: peer.log_loss(wanted, softmax(logits), labels=range(logits.shape[1])),
    "brier": lambda wanted, logits: float(
        ((softmax(logits) - np.eye(logits.shape[1])[wanted.astype(int)]) ** 2).sum(1).mean()
    ),
    "ece": lambda wanted, logits: bins(softmax(logits).max(1), softmax(logits).argmax(1) == wanted),
}
BINARY: dict[str, Theirs] = {
    **{name: CLASSES[name] for name in ("accuracy", "pearson", "balanced_accuracy", "mcc")},
    "f1": peer.f1_score,
    "precision": peer.precision_score,
    "recall": peer.recall_score,
    "average_precision": peer.average_precision_score,
    "auc": peer.roc_auc_score,
    "log_loss": lambda wanted, logits: peer.log_loss(wanted, sigmoid(logits), labels=[0, 1]),
    "brier": lambda wanted, logits: peer.brier_score_loss(wanted, sigmoid(logits)),
    "ece": lambda wanted, logits: bins(np.maximum(sigmoid(logits), sigmoid(-logits)), (logits > 0) == wanted),
}
SCORES: dict[str, Theirs] = {
    **{name: CLASSES[name] for name in ("pearson", "spearman", "kendall", "mae", "mse")},
    "r2": peer.r2_score,
}
SEVERAL: dict[str, Theirs] = {
    "f1_micro": partial(peer.f1_score, average="micro"),
    "f1_macro": partial(peer.f1_score, average="macro"),
    "average_precision": peer.average_precision_score,
    "auc": peer.roc_auc_score,
}
KIND_OF = {"classes": CLASSES, "binary": BINARY, "score": SCORES, "probability": SCORES, "multilabel": SEVERAL}


def softmax(logits: Floats) -> Floats:
    found: Floats = torch.tensor(logits).softmax(dim=1).numpy()
    return found


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def bins(sure: Floats, right: Floats) -> float:
    """Guo et al., 2017, equation 3, bin by bin."""
    total = 0.0
    for at in range(15):
        there = (sure > at / 15) & (sure <= (at + 1) / 15)
        if there.any():
            total += there.sum() / len(sure) * abs(sure[there].mean() - right[there].mean())
    return total


def drawn(kind: str, seed: int, count: int) -> tuple[Predicted, Floats]:
    """Predictions, many of them tied, and labels that they know something of."""
    random = np.random.default_rng(seed)
    if kind == "classes":
        labels = random.integers(0, 4, count).astype(np.float64)
        labels[:4] = np.arange(4)
        logits = np.round(random.normal(0, 1, (count, 4)) + 1.5 * np.eye(4)[labels.astype(int)], 1)
        return Predicted(torch.tensor(logits.argmax(1)).double(), torch.tensor(logits)), labels
    if kind == "binary":
        labels = random.integers(0, 2, count).astype(np.float64)
        labels[:2] = 0, 1
        logits = np.round(random.normal(0, 1, count) + labels, 1)
        return Predicted(torch.tensor(logits > 0).double(), torch.tensor(logits)), labels
    if kind == "multilabel":
        labels = random.integers(0, 2, (count, 3)).astype(np.float64)
        labels[:2] = [0, 0, 0], [1, 1, 1]
        logits = np.round(random.normal(0, 1, (count, 3)) + labels, 1)
        return Predicted(torch.tensor(logits > 0).double(), torch.tensor(logits)), labels
    labels = np.round(random.uniform(0, 1, count), 1)
    return Predicted(torch.tensor(np.round(labels + random.normal(0, 0.3, count), 1))), labels


OF_KINDS = [(kind, metric) for kind in KINDS for metric in KINDS[kind].metrics if metric not in RANKINGS]


@pytest.mark.parametrize(("kind", "metric"), OF_KINDS)
@pytest.mark.parametrize(("seed", "count"), [(1, 300), (2, 40), (3, 7)])
def test_a_metric_is_the_peers(kind: str, metric: str, seed: int, count: int) -> None:
    predicted, labels = drawn(kind, seed, count)
    given = predicted.logits if METRICS[metric].of_logits else predicted.labels
    assert given is not None
    expected = float(KIND_OF[kind][metric](labels, given.numpy()))
    found = score(metric, predicted, labels)
    assert found.value == pytest.approx(expected, abs=1e-12)
    if count > 100:
        assert found.interval and found.interval[0] < found.interval[1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_of_a_kind_has_a_peer_here(kind: str) -> None:
    assert {*KINDS[kind].metrics} - {*RANKINGS} == {*KIND_OF[kind]}  # type: ignore[index]


@pytest.mark.parametrize(("kind", "metric"), OF_KINDS)
def test_resamples_are_measured_at_once_as_one_by_one(kind: str, metric: str) -> None:
    predicted, labels = drawn(kind, 5, 30)
    given = (predicted.logits if METRICS[metric].of_logits else predicted.labels).numpy()  # type: ignore[union-attr]
    picks = np.random.default_rng(6).integers(0, 30, (8, 30))
    function = METRICS[metric].function(given, labels)
    at_once = function(given[picks], labels[picks])
    one_by_one = [float(function(given[some], labels[some])) for some in picks]
    np.testing.assert_allclose(at_once, one_by_one, atol=1e-12)


ONE_SIDED = [
    ("balanced_accuracy", [0, 0, 1], [0, 0, 0], 2 / 3, None),
    ("mcc", [0, 0, 0], [0, 1, 0], 0.0, None),  # of which torchmetrics makes something else
    ("mcc", [1, 1, 1], [1, 1, 1], 0.0, None),
    ("f1_macro", [0, 0, 0], [0, 0, 0], 1.0, None),
    ("precision_macro", [0, 0, 0], [0, 1, 2], 1 / 9, None),
    ("precision", [0, 0, 0], [0, 1, 0], None, "constant prediction 0.0"),
    ("recall", [0, 1, 0], [0, 0, 0], None, "constant label 0.0"),
    ("f1", [0, 1, 0], [0, 0, 0], None, "constant label 0.0"),
    ("f1", [0, 0, 0], [0, 1, 0], 0.0, None),
    ("spearman", [1, 1, 1], [1, 2, 3], None, "constant prediction 1.0"),
    ("kendall", [1, 2, 3], [2, 2, 2], None, "constant label 2.0"),
    ("r2", [1, 2, 3], [2, 2, 2], None, "constant label 2.0"),
    ("mae", [1, 1], [1, 1], 0.0, None),
]


@pytest.mark.parametrize(("metric", "given", "wanted", "value", "why"), ONE_SIDED)
def test_constant_and_one_sided_input(
    metric: str, given: list[float], wanted: list[float], value: float | None, why: str | None
) -> None:
    found = score(metric, Predicted(torch.tensor(given).double()), wanted)
    assert found.why == why and found.value == (None if value is None else pytest.approx(value, abs=1e-12))


def test_a_class_that_no_label_has_leaves_areas_without_a_value() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    found = score("auc", Predicted(logits.argmax(1).double(), logits), [0, 1])
    assert (found.value, found.why) == (None, "a class has no label, or all of them")
    one = score("auc", Predicted(torch.ones(2).double(), torch.tensor([1.0, 2.0])), [1, 1])
    assert (one.value, one.why) == (None, "constant label 1.0")


def test_labels_that_all_have_every_class_leave_no_area() -> None:
    logits = torch.ones(3, 2)
    found = score("auc", Predicted(logits, logits), np.ones((3, 2)))
    assert (found.value, found.why) == (None, "no class that some labels have and others have not")


def test_logits_far_out_cost_what_they_say_and_no_more() -> None:
    """Probabilities of them would round to 0 and 1, and their logarithms to nothing."""
    logits = torch.tensor([800.0, -800.0])
    assert score("log_loss", Predicted((logits > 0).double(), logits), [0, 1]).value == 800.0
    wide = torch.stack([logits, -logits], dim=1)
    assert score("log_loss", Predicted(wide.argmax(1).double(), wide), [1, 0]).value == 1600.0


@pytest.mark.parametrize("count", [2, 3, 8, 37, 500])
def test_inversions_are_those_counted_pair_by_pair(count: int) -> None:
    values = np.random.default_rng(count).integers(0, count, (3, count)).astype(np.float64)
    expected = [sum(row[i] > row[j] for i in range(count) for j in range(i + 1, count)) for row in values]
    assert functions._inversions(values).tolist() == expected


def test_less_is_better_where_it_is_an_error_and_correlations_are_mapped() -> None:
    assert goodness("sst/log_loss", 0.2) > goodness("sst/log_loss", 0.3)
    assert (
        goodness("sts/mae", 0.2) == -0.2 and goodness("mlm/perplexity", 3.0) == -3.0 and goodness("sts/r2", 0.5) == 0.5
    )
    assert normalised("sts/kendall", 0.5) == 0.75 and normalised("sst/f1_macro", 0.5) == 0.5


@pytest.mark.parametrize("kind", ["classes", "binary", "multilabel"])
def test_each_class_is_the_peers(kind: KindName) -> None:
    predicted, labels = drawn(kind, 9, 80)
    label = LabelSpec(kind, "x", 0, {"classes": 4, "binary": 1, "multilabel": 2}[kind])  # of classes, one that none has
    found = by_class(predicted.labels.numpy(), labels, label)
    assert found
    given, names = predicted.labels.numpy(), range(int(label.high) + 1)
    theirs = peer.precision_recall_fscore_support(labels, given, labels=[*names], zero_division=np.nan)
    for at, one in enumerate(found.scores):
        ours = [np.nan if value is None else value for value in (one.precision, one.recall, one.f1)]
        np.testing.assert_allclose(ours, [values[at] for values in theirs[:3]], atol=1e-12)
        assert one.rows == theirs[3][at] and one.name == str(at)
    if kind == "multilabel":
        assert found.confusion is None
    else:
        assert (found.confusion == peer.confusion_matrix(labels, given, labels=[*names])).all()


def test_scores_have_no_classes() -> None:
    assert by_class(np.zeros(3), np.zeros(3), LabelSpec("score", "x", 0, 5)) is None
