"""Metrics, exact: over all examples at once, in float64, and null with a reason where there is no value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multitask.measure.bootstrap import INTERVAL_SEED, RESAMPLES, Interval, interval, share_interval
from multitask.tasks.labels import KINDS, KindName

if TYPE_CHECKING:  # torch is much to load for whoever only asks which metrics there are
    from torch import Tensor

Floats = NDArray[np.float64]

PERPLEXITY = "mlm/perplexity"
COMPLETION = "completion/perplexity"
LOWER_IS_BETTER = frozenset({PERPLEXITY, COMPLETION})

# The three metrics that the papers' overall scores are made of.
OVERALL_OF = ("sst/accuracy", "quora/accuracy", "sts/pearson")
NO_SPREAD = 1e-12  # of an interval: rounding


def goodness(metric: str, value: float | None) -> float:
    """The more, the better; -inf where there is no value."""
    if value is None or not np.isfinite(value):
        return float("-inf")
    return -value if metric in LOWER_IS_BETTER else value


@dataclass(frozen=True)
class Predicted:
    """What a model says of N examples.

    labels: (N,) float64, the predicted ones, in the label's own unit. logits: (N,) float64, what they were before they
    became yes or no; None for labels that are no decision.
    """

    labels: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True)
class Score:
    """A metric's value, or None and why there is none. interval: 95 %, where the value has one."""

    value: float | None
    why: str | None = None
    interval: Interval | None = None


def accuracy(predictions: Floats, labels: Floats) -> Floats:
    """The share of equal pairs along the last axis: (..., N), (..., N) -> (...)."""
    return np.asarray((predictions == labels).mean(axis=-1))


def pearson(predictions: Floats, labels: Floats) -> Floats:
    """Pearson's r along the last axis: (..., N), (..., N) -> (...); NaN where either side is constant."""
    x = predictions - predictions.mean(axis=-1, keepdims=True)
    y = labels - labels.mean(axis=-1, keepdims=True)
    varies = (np.ptp(predictions, axis=-1) > 0) & (np.ptp(labels, axis=-1) > 0)
    norm = np.sqrt((x * x).sum(axis=-1)) * np.sqrt((y * y).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, np.clip((x * y).sum(axis=-1) / norm, -1.0, 1.0), np.nan)


METRICS: dict[str, Callable[[Floats, Floats], Floats]] = {"accuracy": accuracy, "pearson": pearson}


def score(metric: str, predicted: Predicted, labels: ArrayLike) -> Score:
    """The metric of N predictions against N labels, computed in float64, with its bootstrap interval."""
    given, wanted = _float64(predicted.labels), _float64(labels)
    assert given.shape == wanted.shape, f"{given.shape} predictions for {wanted.shape} labels"
    if not given.size:
        return Score(None, "no examples")
    broken = int(np.count_nonzero(~np.isfinite(given)))
    if broken:
        return Score(None, f"{broken} of {given.size} predictions are not finite")
    value = float(METRICS[metric](given, wanted))
    if np.isfinite(value):
        return Score(value, interval=bootstrap_interval(metric, given, wanted))
    side, values = ("prediction", given) if np.ptp(given) == 0 else ("label", wanted)
    return Score(None, f"constant {side} {values[0]}")


def majority_baseline(labels: ArrayLike, kind: KindName) -> float | None:
    """The accuracy of always answering the most frequent label; None for real ones: a constant has no r."""
    wanted = _float64(labels)
    if KINDS[kind].words is None or not wanted.size:
        return None
    return float(np.unique(wanted, return_counts=True)[1].max() / wanted.size)


def overall(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Both papers' overall scores; None unless all of OVERALL_OF were measured.

    overall/mean: the plain mean of SST accuracy, Quora accuracy and STS Pearson (mlm-mnrl.txt).
    overall/normalised: the same with Pearson's r mapped to (r + 1) / 2 (bertaar.txt, 7.4).
    """
    found = {key: value for key in OVERALL_OF if (value := metrics.get(key)) is not None}
    if len(found) < len(OVERALL_OF):
        return {"overall/mean": None, "overall/normalised": None}
    mapped = [(value + 1) / 2 if key.endswith("/pearson") else value for key, value in found.items()]
    return {"overall/mean": fmean(found.values()), "overall/normalised": fmean(mapped)}


def bootstrap_interval(
    metric: str, given: Floats, wanted: Floats, seed: int = INTERVAL_SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """The metric's 95 % percentile interval over resampled pairs of a prediction and a label; None where it has no
    spread. An accuracy of 0 or 1, of which every resample is the same, gets Wilson's interval.
    """
    found = interval(lambda picks: METRICS[metric](given[picks], wanted[picks]), len(given), seed, resamples)
    if found is None or found[1] - found[0] > NO_SPREAD:
        return found
    return share_interval(found[0], len(given)) if metric == "accuracy" else None


def _float64(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
