"""Mixtures of several models' outputs: probabilities, scores, and weights fitted on rows that are not reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from multitask.measure.ensembles import cross_fitted, fitted, mixed, uniform
from multitask.tasks.labels import KINDS, LabelSpec

LABELS = {
    "classes": LabelSpec("classes", "label", 0, 3),
    "binary": LabelSpec("binary", "label", 0, 1),
    "multilabel": LabelSpec("multilabel", "label", 0, 2),
    "probability": LabelSpec("probability", "label", 0, 1),
    "score": LabelSpec("score", "label", 0, 5),
}
assert LABELS.keys() == KINDS.keys()
MEMBERS, ROWS = 3, 60


def drawn(kind: str, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Outputs of three models, float32, and labels that the first of them knows best and the last one not at all."""
    random, label = torch.Generator().manual_seed(seed), LABELS[kind]
    outputs = torch.randn(MEMBERS, ROWS, *label.shape, generator=random) * 2
    truth = outputs[0] + 0.5 * outputs[1] + torch.randn(ROWS, *label.shape, generator=random)
    labels = {
        "classes": lambda: truth.argmax(dim=-1).float(),
        "probability": lambda: truth.sigmoid(),
        "score": lambda: truth,
    }.get(kind, lambda: (truth > 0).float())()
    return list(outputs), labels


def likelihood(kind: str, outputs: list[Tensor], labels: Tensor, weights: np.ndarray) -> float:
    """The mean log-likelihood of the labels under the mixture, written out; of scores the correlation."""
    label = LABELS[kind]
    probability = KINDS[label.kind].probability
    if probability is None:
        mean = sum(weight * some.double().numpy() for weight, some in zip(weights, outputs, strict=True))
        return float(np.corrcoef(mean, labels.double().numpy())[0, 1])
    p = sum(weight * probability(some).numpy() for weight, some in zip(weights, outputs, strict=True))
    y = labels.double().numpy()
    if kind == "classes":
        return float(np.log(p[np.arange(ROWS), y.astype(int)]).mean())
    return float((y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


@pytest.mark.parametrize("kind", LABELS)
def test_what_is_mixed_has_the_mean_of_the_probabilities(kind: str) -> None:
    outputs, _ = drawn(kind)
    weights, probability = (0.5, 0.3, 0.2), KINDS[LABELS[kind].kind].probability
    found = mixed(outputs, weights, LABELS[kind])
    assert found.dtype == torch.float64 and found.shape == outputs[0].shape
    of = probability or (lambda some: some.double())
    expected = sum(weight * of(some) for weight, some in zip(weights, outputs, strict=True))
    torch.testing.assert_close(of(found), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LABELS)
def test_a_weight_of_1_gives_that_model(kind: str) -> None:
    outputs, _ = drawn(kind)
    found, of = mixed(outputs, (0.0, 1.0, 0.0), LABELS[kind]), KINDS[LABELS[kind].kind].prediction
    torch.testing.assert_close(of(found, LABELS[kind]), of(outputs[1].double(), LABELS[kind]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_models_that_are_sure_leave_finite_outputs(kind: str) -> None:
    sure = torch.full((2, *LABELS[kind].shape), 400.0)
    sure[..., -1] = -400.0
    assert mixed([sure, sure], uniform(2), LABELS[kind]).isfinite().all()


@pytest.mark.parametrize("kind", LABELS)
def test_fitted_weights_are_the_best_on_the_simplex(kind: str) -> None:
    """Against scipy's constrained optimiser, which is told the objective and nothing of ours."""
    outputs, labels = drawn(kind)
    found = np.array(fitted(outputs, labels, LABELS[kind]))
    assert found.min() >= 0 and found.sum() == pytest.approx(1, abs=1e-9)
    best = minimize(
        lambda weights: -likelihood(kind, outputs, labels, weights),
        np.full(MEMBERS, 1 / MEMBERS),
        bounds=[(1e-9, 1)] * MEMBERS,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert likelihood(kind, outputs, labels, found) >= -best.fun - 1e-7
    assert found == pytest.approx(best.x, abs=2e-3)
    assert found[0] > found[2] + 0.2


@pytest.mark.parametrize("kind", LABELS)
def test_a_rows_own_label_has_no_part_in_its_cross_fitted_output(kind: str) -> None:
    outputs, labels = drawn(kind)
    before = cross_fitted(outputs, labels, LABELS[kind])
    changed = labels.clone()
    changed[7] = {"classes": 3 - labels[7], "score": labels[7] + 9}.get(kind, 1 - labels[7])
    after = cross_fitted(outputs, changed, LABELS[kind])
    torch.testing.assert_close(after[7], before[7], rtol=0, atol=0)
    assert not torch.equal(after, before)


def test_scores_that_say_nothing_get_equal_weights() -> None:
    labels = torch.arange(6.0)
    assert fitted([-labels, torch.ones(6)], labels, LABELS["score"]) == (0.5, 0.5)


def test_noise_gets_no_better_by_fitting_as_far_as_is_reported() -> None:
    """Twenty models of pure noise: fitted and measured on the same rows they seem to know something."""
    random = torch.Generator().manual_seed(5)
    outputs, labels = list(torch.randn(20, 100, generator=random)), torch.randn(100, generator=random)
    weights = fitted(outputs, labels, LABELS["score"])
    seeming, honest = (
        float(np.corrcoef(some.numpy(), labels.numpy())[0, 1])
        for some in (mixed(outputs, weights, LABELS["score"]), cross_fitted(outputs, labels, LABELS["score"]))
    )
    assert seeming > 0.3 and honest < 0.2
