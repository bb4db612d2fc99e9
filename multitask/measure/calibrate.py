"""Logits made to fit labels: multiplied by one number, and moved by one for each output.

Platt, 1999, "Probabilistic Outputs for Support Vector Machines", 2.1, of a yes or no; Guo et al., 2017, "On Calibration
of Modern Neural Networks", 4.2, of classes. The shift is what corrects classes that are rarer, or more frequent, than
in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from multitask.errors import UserError
from multitask.measure import functions
from multitask.measure.ensembles import FOLDS, mixed, outside_and_inside
from multitask.measure.metrics import Floats, Function
from multitask.tasks.chances import Chances
from multitask.tasks.labels import KINDS, LabelSpec

STEPS = 200
WIDTH = 10.0  # of the prior on the scale
LEAST = 1e-3  # of a scale: below, the outputs say nothing of the labels
CUTS = 400  # between logits, of as many rows each
# Kind of label -> metric of decisions -> what computes it, output by output.
DECISIONS: dict[str, dict[str, Function]] = {
    "binary": {
        "accuracy": functions.accuracy,
        "balanced_accuracy": functions.balanced_accuracy,
        "f1": functions.f1,
        "mcc": functions.mcc,
    },
    "multilabel": {"f1_macro": functions.f1},
}


@dataclass(frozen=True)
class Calibration:
    """What outputs become: scale * output + shift, with a shift, float64, of one example's shape."""

    scale: float
    shift: Tensor

    def of(self, outputs: Tensor) -> Tensor:
        """(N, *shape) outputs, float64."""
        return self.scale * outputs.double() + self.shift


def surprise(outputs: Tensor, labels: Tensor, label: LabelSpec) -> float:
    """The mean of -log p of what the labels say, nats an example. outputs: (N, *shape). labels: (N,) or (N, W)."""
    return -_likely(outputs, labels, _chances(label)).item() / len(labels)


def _chances(label: LabelSpec) -> Chances:
    found = KINDS[label.kind].chances
    assert found is not None, f"outputs for {label.kind} are no probabilities"
    return found


def _likely(outputs: Tensor, labels: Tensor, chances: Chances) -> Tensor:
    """The log-likelihood of the labels, (), float64."""
    logs = chances.logs(outputs)
    truth = chances.truth(labels, logs.shape[-1])
    return torch.where(truth > 0, truth * logs, 0.0).sum()


def calibrated(
    outputs: Sequence[Tensor], weights: Sequence[float], labels: Tensor, label: LabelSpec, where: str
) -> Calibration:
    """What makes the labels likeliest, by L-BFGS; of one model the likelihood is concave in scale and shifts.

    Normal priors keep both finite where the likelihood has no maximum: on how far an output's mean moves, of deviation
    1, for a class that no row has; on the scale around 1, of deviation WIDTH, for outputs that are never wrong.
    outputs: (N, *shape) a model. weights: of their mixture. labels: (N,) or (N, W). where: what an error names. Raises
    UserError where the outputs say nothing of the labels.
    """
    models, chances = torch.stack([some.double() for some in outputs]), _chances(label)
    counted = torch.tensor(weights, dtype=torch.float64)
    mean: Tensor = torch.tensordot(counted, models.mean(dim=1), dims=1)
    squares = (models - mean).square().flatten(start_dim=1).mean(dim=1)
    spread: Tensor = (counted @ squares).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    varying = (models - mean) / spread  # so that a step is as good for the scale as for the means
    scale, middle = spread.clone().requires_grad_(), mean.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [scale, middle], max_iter=STEPS, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def unlikely() -> Tensor:
        solver.zero_grad()
        prior = (middle - mean).square().sum() / 2 + (scale / spread - 1).square() / (2 * WIDTH**2)
        mixture = mixed(list(scale * varying + middle), weights, label)
        found = (prior - _likely(mixture, labels, chances)) / len(labels)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    solver.step(unlikely)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        factor = (scale / spread).item()
        if not factor > LEAST:
            raise UserError(
                f"{where}: the model's outputs for {len(labels)} rows say nothing of their labels: the best scale is "
                f"{factor:.3g}; valid: above 0"
            )
        return Calibration(factor, middle - factor * mean)


def cross_calibrated(
    outputs: Sequence[Tensor],
    weights: Sequence[float],
    labels: Tensor,
    label: LabelSpec,
    where: str,
    folds: int = FOLDS,
    decide: str | None = None,
) -> Tensor:
    """(N, *shape) float64 outputs of the mixture, each row's calibrated by the rows of the other folds. where: what an
    error names. decide: a key of DECISIONS that each fit's decisions are then made best by, of one model."""
    found = torch.zeros_like(outputs[0], dtype=torch.float64)
    for outside, inside in outside_and_inside(len(labels), folds):
        fit = calibrated([some[outside] for some in outputs], weights, labels[outside], label, where)
        if decide:
            fit = with_best_cuts(fit, outputs[0][outside], labels[outside], label, decide)
        found[inside] = mixed([fit.of(some[inside]) for some in outputs], weights, label)
    return found


def with_best_cuts(fit: Calibration, outputs: Tensor, labels: Tensor, label: LabelSpec, metric: str) -> Calibration:
    """The calibration with each output moved on, so that what lies above its threshold is best by a metric on these
    rows. Probabilities then say how a row is decided, and no longer how likely its label is.

    outputs: (N, *shape), uncalibrated. labels: (N,) or (N, W). metric: a key of DECISIONS of the label's kind.
    """
    function = DECISIONS[label.kind][metric]
    logits, wanted = (some.double().reshape(len(labels), -1).numpy() for some in (fit.of(outputs), labels))
    cuts = np.broadcast_to(label.cuts, logits.shape[1:])
    moves = [cut - _best_cut(function, logits[:, at], wanted[:, at], cut) for at, cut in enumerate(cuts)]
    return Calibration(fit.scale, fit.shift + torch.tensor(moves, dtype=torch.float64).reshape(label.shape))


def _best_cut(function: Function, logits: Floats, wanted: Floats, usual: float) -> float:
    """The cut above which yes is best, of CUTS between the logits; of equal ones the nearest to the usual one."""
    between = np.unique(np.quantile(logits, np.linspace(0, 1, CUTS + 1)))
    cuts = np.unique(np.append((between[1:] + between[:-1]) / 2, usual))
    values = np.array([function((logits > cut).astype(np.float64), wanted) for cut in cuts])
    best = np.flatnonzero(values == np.nanmax(values)) if np.isfinite(values).any() else np.arange(len(cuts))
    return float(cuts[best[np.argmin(np.abs(cuts[best] - usual))]])
