"""Whether one model is better than another on the rows that both have answered: paired differences and their tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from multitask.measure.bootstrap import INTERVAL_SEED, Interval, Places, Values, percentiles, resampled, two_sided_p
from multitask.measure.evaluate import metrics_of
from multitask.measure.metrics import (
    METRICS,
    OVERALL_OF,
    Floats,
    Predicted,
    Score,
    by_question,
    measured,
    normalised,
    overall,
    plain_score,
)
from multitask.measure.rankings import Questions
from multitask.tasks.labels import KINDS
from multitask.tasks.table import TaskSpec

Mask = NDArray[np.bool_]

RESAMPLES = 10_000  # ten times an interval's: a small p rests on few of them


@dataclass(frozen=True)
class Answered:
    """What several models say of a task's N rows.

    labels: (N,), or (N, W) of W numbers each. predicted: a model each, the baseline's first. questions: of pairs that
    metrics of rankings may be asked of.
    """

    spec: TaskSpec
    labels: Floats
    predicted: Sequence[Predicted]
    questions: Questions | None = None

    def of(self, rows: Mask) -> Answered:
        """What is said of those rows alone. rows: (N,) whether each is one of them."""
        questions = self.questions.of(rows) if self.questions else None
        return Answered(self.spec, self.labels[rows], [predicted.of(rows) for predicted in self.predicted], questions)

    def right(self, model: int) -> Mask | None:
        """(N,) whether a model's decision on each row is right, in all classes of several; None where labels are
        numbers on a scale, which nobody decides."""
        if KINDS[self.spec.label.kind].words is None:
            return None
        same: Mask = np.equal(self.predicted[model].labels.numpy(), self.labels)
        right: Mask = np.asarray(same.all(axis=tuple(range(1, same.ndim))))
        return right


@dataclass(frozen=True)
class Sides:
    """The rows of which one of two models is right and the other wrong.

    gained: those that the baseline has wrong. p: McNemar's exact test, of no difference. p_holm: adjusted for all tests
    of a comparison.
    """

    gained: int
    lost: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """A model's metric against the baseline's.

    model: its place among those compared, the baseline's being 0. difference: value - baseline, with its 95 %
    interval, and p, two-sided, of no difference, over resampled rows; all None where there is no value, for the reason
    `why`. p_holm: p adjusted for all metrics and models of a comparison. sides: for decisions.
    """

    model: int
    metric: str
    rows: int
    baseline: float | None
    value: float | None
    why: str | None = None
    interval: Interval | None = None
    p: float | None = None
    p_holm: float | None = None
    sides: Sides | None = None

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None or self.value is None else self.value - self.baseline


def compare(
    tasks: Sequence[Answered],
    of: Sequence[str] = OVERALL_OF,
    measures: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """Every model but the first against the first, in each task's metrics and, where all that they are made of are
    there, both overall scores. of: the metrics that these are made of, the papers' three unless said. measures:
    further ones, TASK/METRIC.

    A row is drawn for all models at once: what is hard for all of them cancels out. Rows of different tasks are drawn
    independently of each other.
    """
    asked = {
        f"{task.spec.name}/{metric}": (task, metric)
        for task in tasks
        for metric in metrics_of(task.spec, [*of, *measures])
    }
    scores = {key: _scores(task, metric) for key, (task, metric) in asked.items()}
    valued = {key: [score.value is not None for score in given] for key, given in scores.items()}
    defined = [key for key, (baseline, *others) in valued.items() if baseline and any(others)]
    drawn = {key: _drawn(*asked[key], resamples) for key in defined}
    rows = {key: len(task.labels) for key, (task, _) in asked.items()}
    if all(key in scores for key in of):
        scores |= _overall_scores(scores, of)
        drawn |= _overall_drawn(drawn, of)
        rows |= dict.fromkeys(overall({}), sum(rows[key] for key in of))
    sides = {task.spec.metric_key: task for task in tasks}
    found = [
        _compared(model, key, rows[key], given, drawn.get(key), sides.get(key))
        for model in range(1, len(tasks[0].predicted))
        for key, given in scores.items()
    ]
    return adjusted(found)


def _compared(
    model: int, metric: str, rows: int, scores: Sequence[Score], drawn: Values | None, task: Answered | None
) -> Comparison:
    why = next((score.why for score in (scores[0], scores[model]) if score.why), None)
    sides = changed_sides(task, model) if task else None
    found = Comparison(model, metric, rows, scores[0].value, scores[model].value, why, sides=sides)
    if drawn is None or found.difference is None:
        return found
    differences = drawn[:, model] - drawn[:, 0]
    return replace(found, interval=percentiles(differences), p=two_sided_p(differences))


def changed_sides(task: Answered, model: int) -> Sides | None:
    """How many rows a model has gained and lost against the baseline; None where labels are no decisions, and where
    there is no row."""
    before, after = task.right(0), task.right(model)
    if before is None or after is None or not len(before):
        return None
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    p = mcnemar(gained, lost)
    return Sides(gained, lost, p, p)


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test, two-sided: how likely it is that rows which change sides do so at least as unevenly, were
    either side as likely (McNemar, 1947; the binomial form, Fagerland et al., 2013, formula 4)."""
    trials = gained + lost
    whole = math.lgamma(trials + 1) - trials * math.log(2)
    fewer = range(min(gained, lost) + 1)  # logarithms: 2 ** trials is no float from some 1,000 rows on
    tail = math.fsum(math.exp(whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1)) for k in fewer)
    return min(1.0, 2 * tail)


def holm(ps: Sequence[float]) -> list[float]:
    """Each p adjusted for all of them, so that the chance of any false alarm stays below what one is held to (Holm,
    1979)."""
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda at: ps[at])):
        adjusted[at] = least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
    return adjusted


def adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their p adjusted for all of them, the bootstrap's and McNemar's each among themselves."""
    ps = iter(holm([one.p for one in found if one.p is not None]))
    of_sides = iter(holm([one.sides.p for one in found if one.sides]))
    return [
        replace(
            one,
            p_holm=None if one.p is None else next(ps),
            sides=one.sides and replace(one.sides, p_holm=next(of_sides)),
        )
        for one in found
    ]


def _scores(task: Answered, metric: str) -> list[Score]:
    given = [measured(metric, predicted) for predicted in task.predicted]
    return [plain_score(metric, one, task.labels, task.questions) for one in given]


def _drawn(task: Answered, metric: str, resamples: int) -> Values:
    """(resamples, models) a metric over rows drawn with replacement, or over questions, the same ones for all models
    and metrics."""
    given, wanted = [measured(metric, predicted) for predicted in task.predicted], task.labels
    seed = (INTERVAL_SEED, *task.spec.name.encode())  # tasks of as many rows must not be drawn alike
    if METRICS[metric].ranking:
        found = np.stack([by_question(metric, one, task.questions) for one in given], axis=-1)
        return resampled(lambda picks: found[picks].mean(axis=1), len(found), seed, resamples, len(given))
    value = METRICS[metric].function(given[0], wanted)

    def values(picks: Places) -> Values:
        labels = wanted[picks]
        return np.stack([value(one[picks], labels) for one in given], axis=-1)

    return resampled(values, len(wanted), seed, resamples, wanted.size // len(wanted))


def _overall_scores(scores: Mapping[str, Sequence[Score]], of: Sequence[str]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {name: [] for name in overall({})}
    for model in zip(*(scores[key] for key in of), strict=True):
        undefined = [key for key, score in zip(of, model, strict=True) if score.value is None]
        total = overall({key: score.value for key, score in zip(of, model, strict=True)}, of)
        for name, value in total.items():
            found[name].append(Score(value, f"{', '.join(undefined)} undefined" if undefined else None))
    return found


def _overall_drawn(drawn: Mapping[str, Values], of: Sequence[str]) -> dict[str, Values]:
    if not all(key in drawn for key in of):
        return {}
    plain = [drawn[key] for key in of]
    mapped = [normalised(key, drawn[key]) for key in of]
    return {"overall/mean": np.mean(plain, axis=0), "overall/normalised": np.mean(mapped, axis=0)}
