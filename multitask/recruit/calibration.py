"""How far probabilities can be trusted: a temperature for them, and their reliability.

Guo et al., 2017, "On Calibration of Modern Neural Networks": temperature scaling (4.2), reliability diagram, ECE (2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from multitask.errors import UserError
from multitask.measure.metrics import Floats

BINS = 10
TEMPERATURES = (0.02, 50.0)  # beyond them the outputs say nothing of the labels, or all
GOLDEN = (5**0.5 - 1) / 2
STEPS = 60  # of the golden section: the span shrinks to a 1e-12th


def cross_entropy(logits: Floats, labels: Floats, temperature: float) -> float:
    """The mean cross-entropy of labels in 0..1 (N,) against sigmoid(logits / temperature), in nats."""
    cooled = logits / temperature
    return float(np.mean(np.logaddexp(0.0, cooled) - labels * cooled))


def fit_temperature(logits: Floats, labels: Floats) -> float:
    """The temperature of least cross-entropy, by golden section in log T: in 1 / T the loss is convex.

    Raises UserError where none within TEMPERATURES fits.
    """
    low, high = (log(limit) for limit in TEMPERATURES)
    for _ in range(STEPS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if cross_entropy(logits, labels, exp(left)) < cross_entropy(logits, labels, exp(right)):
            high = right
        else:
            low = left
    found = exp((low + high) / 2)
    if min(found / TEMPERATURES[0], TEMPERATURES[1] / found) < 1.001:
        least, most = TEMPERATURES
        raise UserError(
            f"no temperature from {least:g} to {most:g} calibrates these {len(labels)} rows, the best is {found:.3g}: "
            "the model's outputs say nothing of the labels, or all; more or other rows are needed"
        )
    return found


@dataclass(frozen=True)
class Bin:
    """Predictions in [low, high) (the last bin: and 1). predicted, labelled: means, None in an empty bin."""

    low: float
    high: float
    count: int
    predicted: float | None
    labelled: float | None


def reliability(probabilities: Floats, labels: Floats, bins: int = BINS) -> list[Bin]:
    """Equal-width bins of 0..1. Labels may be any in 0..1: a bin's mean label stands for its frequency."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    found = []
    for index in range(bins):
        here, edges = place == index, (index / bins, (index + 1) / bins)
        means = (float(probabilities[here].mean()), float(labels[here].mean())) if here.any() else (None, None)
        found.append(Bin(*edges, int(here.sum()), *means))
    return found


def ece(probabilities: Floats, labels: Floats, bins: int = BINS) -> float:
    """Expected calibration error: the bins' |mean prediction - mean label|, weighted by their counts."""
    gaps = [
        some.count * abs(some.predicted - some.labelled)
        for some in reliability(probabilities, labels, bins)
        if some.predicted is not None and some.labelled is not None
    ]
    return float(sum(gaps) / len(labels))


def brier(probabilities: Floats, labels: Floats) -> float:
    """The mean squared difference between probabilities and labels (Brier, 1950)."""
    return float(np.mean((probabilities - labels) ** 2))


def auc(probabilities: Floats, positive: NDArray[np.bool_]) -> float:
    """The share of (positive, other) pairs in which the positive one has the higher probability, ties half; NaN
    where there are no such pairs."""
    pairs = probabilities[positive][:, None] - probabilities[~positive][None, :]
    return float(np.mean((np.sign(pairs) + 1) / 2)) if pairs.size else float("nan")
