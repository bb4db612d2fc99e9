"""Metrics, exact: over all examples at once, in float64, and null with a reason where there is no value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from multitask.errors import UserError, shown
from multitask.measure import functions, rankings
from multitask.measure.bootstrap import (
    INTERVAL_SEED,
    RESAMPLES,
    Interval,
    interval,
    mean_interval,
    share_interval,
)
from multitask.measure.rankings import Questions, Ranking
from multitask.tasks.imported import Table, is_path, read_only
from multitask.tasks.labels import KINDS, KindName

if TYPE_CHECKING:  # torch is much to load for whoever only asks which metrics there are
    from torch import Tensor

Floats = NDArray[np.float64]
Function = Callable[[Floats, Floats], Floats]
Number = TypeVar("Number", float, Floats)

PERPLEXITY = "mlm/perplexity"
COMPLETION = "completion/perplexity"

# The three metrics that the papers' overall scores are made of.
OVERALL_OF = ("sst/accuracy", "quora/accuracy", "sts/pearson")
NO_SPREAD = 1e-12  # of an interval: rounding
NO_QUESTION = "no first text stands beside a relevant second text and one that is not"


def goodness(metric: str, value: float | None) -> float:
    """The more, the better; -inf where there is no value."""
    if value is None or not np.isfinite(value):
        return float("-inf")
    return -value if lower_is_better(metric) else value


def lower_is_better(key: str) -> bool:
    """Whether less of a metric is better. key: `sts/mse` say, or an objective's own."""
    name = key.rpartition("/")[2]
    return METRICS[name].lower_is_better if name in METRICS else key in (PERPLEXITY, COMPLETION)


class Undefined(ValueError):
    """A measure of one's own has no value for what it was given; the message says why."""


@dataclass(frozen=True)
class Predicted:
    """What a model says of N examples.

    labels: (N,) float64, or (N, W) of W numbers each: the predicted ones, in the label's own unit. logits: what they
    were decided by, of their shape for yes or no, (N, classes) for one class of several; None for labels that are no
    decision.
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


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, by what it is of; a function of each shape that it has a value of."""

    one: Function | None = None
    """For labels that are one number: predicted labels, or a logit each, against them."""
    classes: Function | None = None
    """For a logit for each class, against labels that are one class, numbered from 0."""
    several: Function | None = None
    """For labels of several numbers: predicted ones, or a logit each, against them."""
    ranking: Ranking | None = None
    """For pairs: of one question's candidates, ranked by logit or score; the mean over questions counts."""
    of_logits: bool = False
    """Whether it is of the logits, and not of what they were decided to be."""
    lower_is_better: bool = False
    correlation: bool = False
    """Whether it lies in -1 to 1, and not in 0 to 1."""

    def serves(self, kind: KindName) -> bool:
        """Whether it can be measured of labels of that kind."""
        facts = KINDS[kind]
        of_classes = self.of_logits and facts.one_class and not facts.decides
        function = self.several if facts.several else self.classes if of_classes else self.one
        return function is not None and (facts.by_logits or not self.of_logits)

    def function(self, given: Floats, wanted: Floats) -> Function:
        """What computes it for N examples of those shapes."""
        found = self.several if wanted.ndim > 1 else self.classes if given.ndim > wanted.ndim else self.one
        assert found is not None
        return found


BUILT_IN: dict[str, Metric] = {
    "accuracy": Metric(functions.accuracy),
    "balanced_accuracy": Metric(functions.balanced_accuracy),
    "f1": Metric(functions.f1),
    "f1_micro": Metric(several=functions.several_f1_micro),
    "f1_macro": Metric(functions.f1_macro, several=functions.several_f1_macro),
    "f1_weighted": Metric(functions.f1_weighted),
    "precision": Metric(functions.precision),
    "precision_macro": Metric(functions.precision_macro),
    "recall": Metric(functions.recall),
    "recall_macro": Metric(functions.recall_macro),
    "mcc": Metric(functions.mcc, correlation=True),
    "pearson": Metric(functions.pearson, correlation=True),
    "spearman": Metric(functions.spearman, correlation=True),
    "kendall": Metric(functions.kendall, correlation=True),
    "mae": Metric(functions.mae, lower_is_better=True),
    "mse": Metric(functions.mse, lower_is_better=True),
    "r2": Metric(functions.r2),
    "auc": Metric(functions.auc, functions.auc_of_classes, functions.several_auc, of_logits=True),
    "average_precision": Metric(
        functions.average_precision, several=functions.several_average_precision, of_logits=True
    ),
    "log_loss": Metric(functions.log_loss, functions.log_loss_of_classes, of_logits=True, lower_is_better=True),
    "brier": Metric(functions.brier, functions.brier_of_classes, of_logits=True, lower_is_better=True),
    "ece": Metric(functions.ece, functions.ece_of_classes, of_logits=True, lower_is_better=True),
    "mrr": Metric(ranking=rankings.reciprocal_rank),
    "map": Metric(ranking=rankings.precision_of_ranks),
    "ndcg_at_10": Metric(ranking=partial(rankings.ndcg, k=10)),
    "recall_at_1": Metric(ranking=partial(rankings.recall, k=1)),
    "recall_at_5": Metric(ranking=partial(rankings.recall, k=5)),
    "recall_at_10": Metric(ranking=partial(rankings.recall, k=10)),
}


def _adopted(found: Any, name: str) -> Metric:
    """The metric that a user's own function of predictions and labels is."""
    if isinstance(found, type) or not callable(found):
        raise TypeError(f"it is {type(found).__name__}; valid: a function (predictions, labels) -> number")
    facts = {fact: getattr(found, fact, None) for fact in ("lower_is_better", "of_logits", "correlation")}
    if facts["lower_is_better"] is None:
        raise TypeError(f"{name.partition(':')[2]}.lower_is_better is missing; valid: True, False")
    one, several = (_one_by_one(found, name, axes) for axes in (1, 2))
    lower, of_logits, correlation = (bool(value) for value in facts.values())
    return Metric(one, one, several, lower_is_better=lower, of_logits=of_logits, correlation=correlation)


def _one_by_one(function: Callable[[Floats, Floats], Any], name: str, axes: int) -> Function:
    """A user's function of predictions and labels, of which the latter have so many axes, for resamples too: one after
    the other, NaN where one of them has no value."""

    def value(given: Floats, wanted: Floats) -> float:
        found = function(given, wanted)
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise UserError(f"'{name}': it gives {shown(found)}; valid: a number, or raise Undefined(why)") from error

    def resample(given: Floats, wanted: Floats) -> float:
        try:
            found = value(given, wanted)
        except Undefined:
            return np.nan
        return found if np.isfinite(found) else np.nan

    def values(given: Floats, wanted: Floats) -> Floats:
        before = wanted.shape[: wanted.ndim - axes]
        given, wanted = read_only(given), read_only(wanted)
        if not before:
            return np.asarray(value(given, wanted))
        pairs = zip(*(side.reshape(-1, *side.shape[len(before) :]) for side in (given, wanted)), strict=True)
        return np.array([resample(*pair) for pair in pairs]).reshape(before)

    return values


METRICS: Table[Metric] = Table(BUILT_IN, _adopted)


def score(metric: str, predicted: Predicted, labels: ArrayLike, questions: Questions | None = None) -> Score:
    """The metric of N predictions against N labels, computed in float64, with its bootstrap interval. questions: those
    of the pairs, for metrics of rankings."""
    given, wanted = measured(metric, predicted), _float64(labels)
    found = plain_score(metric, given, wanted, questions)
    if found.value is None:
        return found
    if METRICS[metric].ranking:
        return replace(found, interval=mean_interval(by_question(metric, given, questions)))
    return replace(found, interval=bootstrap_interval(metric, given, wanted))


def by_question(metric: str, given: Floats, questions: Questions | None) -> Floats:
    """(Q,) the metric of a ranking for each question that counts."""
    measure = METRICS[metric].ranking
    assert measure and questions, f"{metric} is of questions"
    return questions.values(measure, given)


def measured(metric: str, predicted: Predicted) -> Floats:
    """What the metric is of: the predicted labels, or the logits that they were decided by."""
    asked, logits = METRICS[metric], predicted.logits
    found = logits if asked.of_logits or (asked.ranking and logits is not None) else predicted.labels
    assert found is not None, f"{metric} is of labels that are decided"
    return _float64(found)


def plain_score(metric: str, given: Floats, wanted: Floats, questions: Questions | None = None) -> Score:
    """The metric of what `measured` gave, without an interval."""
    assert given.shape[: wanted.ndim] == wanted.shape, f"{given.shape} predictions for {wanted.shape} labels"
    if not given.size:
        return Score(None, "no examples")
    broken = int(np.count_nonzero(~np.isfinite(given)))
    if broken:
        return Score(None, f"{broken} of {given.size} predictions are not finite")
    if METRICS[metric].ranking:
        values = by_question(metric, given, questions)
        return Score(float(values.mean())) if len(values) else Score(None, NO_QUESTION)
    try:
        value = float(METRICS[metric].function(given, wanted)(given, wanted))
    except Undefined as error:
        return Score(None, f"{metric}: {error}")
    if np.isfinite(value):
        return Score(value)
    return Score(None, f"{metric} gives {value}" if is_path(metric) else _undefined(given, wanted))


def _undefined(given: Floats, wanted: Floats) -> str:
    """Why a metric of finite numbers has no value."""
    if wanted.ndim > 1:
        return "no class that some labels have and others have not" if wanted.any() else "no label has any class"
    if given.ndim > wanted.ndim:
        return "a class has no label, or all of them"
    side, values = ("prediction", given) if np.ptp(given) == 0 else ("label", wanted)
    return f"constant {side} {values.flat[0]}"


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
    """A metric on the scale 0 to 1: a correlation r mapped to (r + 1) / 2, others as they are. key: `sts/pearson`
    say."""
    return (value + 1) / 2 if METRICS[key.rpartition("/")[2]].correlation else value


def bootstrap_interval(
    metric: str, given: Floats, wanted: Floats, seed: int = INTERVAL_SEED, resamples: int = RESAMPLES
) -> Interval | None:
    """The metric's 95 % percentile interval over resampled pairs of a prediction and a label; None where it has no
    spread. An accuracy of 0 or 1, of which every resample is the same, gets Wilson's interval.
    """
    width, function = given.size // len(given), METRICS[metric].function(given, wanted)
    found = interval(lambda picks: function(given[picks], wanted[picks]), len(given), seed, resamples, width)
    if found is None or found[1] - found[0] > NO_SPREAD:
        return found
    return share_interval(found[0], len(given)) if metric == "accuracy" else None


def _float64(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
