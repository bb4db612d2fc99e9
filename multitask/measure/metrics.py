"""Metrics, exact: over all examples at once, in float64, and null with a reason where there is no value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multitask.measure.bootstrap import INTERVAL_SEED, RESAMPLES, Interval, interval, share_interval
from multitask.tasks.labels import KINDS, KindName

if TYPE_CHECKING:  # torch is much to load for whoever only asks which metrics there are
    from torch import Tensor

Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)

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

    labels: (N,) float64, or (N, W) of W numbers each: the predicted ones, in the label's own unit. logits: of their
    shape, what they were before they became yes or no; None for labels that are no decision.
    """

    labels: Tensor
    logits: Tensor | None = None

    def of(self, rows: ArrayLike) -> Predicted:
        """What is said of those rows alone. rows: (N,) whether each is one of them."""
        there = np.asarray(rows).nonzero()[0]
        return Predicted(self.labels[there], None if self.logits is None else self.logits[there])


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


def f1_micro(predictions: Floats, labels: Floats) -> Floats:
    """F1 of all classes together: 0 or 1 (..., N, W), (..., N, W) -> (...); NaN where no label is 1."""
    return _f1(predictions, labels, (-2, -1))


def f1_macro(predictions: Floats, labels: Floats) -> Floats:
    """The mean F1 of the classes that labels have. Shapes and NaN as of `f1_micro`."""
    return _mean_of_classes(_f1(predictions, labels, -2))


def average_precision(logits: Floats, labels: Floats) -> Floats:
    """The mean, over the classes that labels have, of their average precision: the sum over n of (R_n - R_n-1) P_n,
    with recall and precision of the n greatest logits, equal ones taken together. Shapes and NaN as of `f1_micro`."""
    falling, there = (np.ascontiguousarray(np.moveaxis(values, -2, -1)) for values in (-logits, labels))
    order = np.argsort(falling, axis=-1)
    falling, there = np.take_along_axis(falling, order, axis=-1), np.take_along_axis(there, order, axis=-1)
    ends = np.full(falling.shape, falling.shape[-1] - 1)
    ends[..., :-1] = np.where(np.diff(falling) > 0, np.arange(falling.shape[-1] - 1), ends[..., :-1])
    ends = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]  # the last place of each one's equals
    hits = there.cumsum(axis=-1)
    precision = np.take_along_axis(hits, ends, axis=-1) / (ends + 1)
    with np.errstate(invalid="ignore"):
        return _mean_of_classes((precision * there).sum(axis=-1) / hits[..., -1])


def _f1(predictions: Floats, labels: Floats, axis: int | tuple[int, int]) -> Floats:
    there = labels.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 2 * (predictions * labels).sum(axis=axis) / (predictions.sum(axis=axis) + there)
    return np.where(there > 0, found, np.nan)


def _mean_of_classes(values: Floats) -> Floats:
    """(..., W) -> (...); NaN is left out, and is the mean of nothing else."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0).sum(axis=-1) / there.sum(axis=-1))


METRICS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "accuracy": accuracy,
    "pearson": pearson,
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "average_precision": average_precision,
}
OF_LOGITS = frozenset({"average_precision"})  # they measure what decisions are made of


def score(metric: str, predicted: Predicted, labels: ArrayLike) -> Score:
    """The metric of N predictions against N labels, computed in float64, with its bootstrap interval."""
    given, wanted = measured(metric, predicted), _float64(labels)
    found = plain_score(metric, given, wanted)
    return found if found.value is None else replace(found, interval=bootstrap_interval(metric, given, wanted))


def measured(metric: str, predicted: Predicted) -> Floats:
    """What the metric is of: the predicted labels, or the logits that they were decided by."""
    found = predicted.logits if metric in OF_LOGITS else predicted.labels
    assert found is not None, f"{metric} is of labels that are decided"
    return _float64(found)


def plain_score(metric: str, given: Floats, wanted: Floats) -> Score:
    """The metric of what `measured` gave against labels of its shape, without an interval."""
    assert given.shape == wanted.shape, f"{given.shape} predictions for {wanted.shape} labels"
    if not given.size:
        return Score(None, "no examples")
    broken = int(np.count_nonzero(~np.isfinite(given)))
    if broken:
        return Score(None, f"{broken} of {given.size} predictions are not finite")
    value = float(METRICS[metric](given, wanted))
    if np.isfinite(value):
        return Score(value)
    if wanted.ndim > 1:
        return Score(None, "no label has any class")
    side, values = ("prediction", given) if np.ptp(given) == 0 else ("label", wanted)
    return Score(None, f"constant {side} {values.flat[0]}")


def majority_baseline(labels: ArrayLike, kind: KindName) -> float | None:
    """The accuracy of always answering the most frequent label; None for real ones, as a constant has no r, and for
    labels of several numbers, which no accuracy measures."""
    wanted = _float64(labels)
    if KINDS[kind].words is None or wanted.ndim > 1 or not wanted.size:
        return None
    return float(np.unique(wanted, return_counts=True)[1].max() / len(wanted))


def overall(metrics: Mapping[str, float | None], of: Sequence[str] = OVERALL_OF) -> dict[str, float | None]:
    """Both papers' overall scores; None unless all metrics that they are made of were measured.

    overall/mean: the plain mean, of SST accuracy, Quora accuracy and STS Pearson unless `of` says other ones
    (mlm-mnrl.txt).
    overall/normalised: the same with Pearson's r mapped to (r + 1) / 2 (bertaar.txt, 7.4).
    """
    found = {key: value for key in of if (value := metrics.get(key)) is not None}
    if len(found) < len(of):
        return {"overall/mean": None, "overall/normalised": None}
    mapped = [normalised(key, value) for key, value in found.items()]
    return {"overall/mean": fmean(found.values()), "overall/normalised": fmean(mapped)}


def normalised(key: str, value: Number) -> Number:
    """A metric on the scale 0 to 1: Pearson's r mapped to (r + 1) / 2, others as they are. key: `sts/pearson` say."""
    return (value + 1) / 2 if key.endswith("/pearson") else value


def bootstrap_interval(
    metric: str, given: Floats, wanted: Floats, seed: int = INTERVAL_SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """The metric's 95 % percentile interval over resampled pairs of a prediction and a label; None where it has no
    spread. An accuracy of 0 or 1, of which every resample is the same, gets Wilson's interval.
    """
    width = given.size // len(given)
    found = interval(lambda picks: METRICS[metric](given[picks], wanted[picks]), len(given), seed, resamples, width)
    if found is None or found[1] - found[0] > NO_SPREAD:
        return found
    return share_interval(found[0], len(given)) if metric == "accuracy" else None


def _float64(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
