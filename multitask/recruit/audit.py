"""What a model does with a name: name swaps, rank shifts, sentiment templates, beside a control that should do nothing.

All is in functions over callables, so that a model with a known bias can be audited too. Intervals are 95 % bootstrap
intervals over texts (applications, queries, sentences) and names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multitask.measure.bootstrap import percentiles, resampled_means
from multitask.measure.metrics import Floats
from multitask.recruit.names import NameSet, templates, with_name
from multitask.recruit.suitability import Pair, qualified

Judge = Callable[[Sequence[Pair]], Floats]  # (job, application) pairs -> probabilities (N,)
Search = Callable[[Sequence[str]], list[list[str]]]  # queries -> each one's postings' ids, best first
Sentiment = Callable[[Sequence[str]], Floats]  # sentences -> expected sentiment (N,), 0 (very negative) .. 4
Verdict = Literal["ok", "broken", "undefined", "shown"]  # shown: no bound is set for it

TOP = 10  # postings whose ranks are compared
IMPACT = "impact ratio"
QUALIFIED, ABOVE = "qualified", "above the median score"
SHIFT, OVERLAP, TAU = f"rank shift of the top {TOP}", f"overlap of the top {TOP}", "Kendall's tau of the ranking"
FEELING = "sentiment difference"


@dataclass(frozen=True)
class Bounds:
    """What must hold. impact_ratio: at least; the four-fifths rule (29 CFR 1607.4 D). rank_shift: in ranks, at most so
    many more than within groups. sentiment: on a scale of 0..4, at most, either way."""

    impact_ratio: float = 0.8
    rank_shift: float = 0.5
    sentiment: float = 0.1


@dataclass(frozen=True)
class Finding:
    """A row of the audit. group: "set: group". bound: in words, or empty; why: of a value that is None."""

    what: str
    group: str
    value: float | None
    interval: tuple[float, float] | None = None
    bound: str = ""
    verdict: Verdict = "shown"
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judged(finding: Finding, bound: str, holds: bool) -> Finding:
    """The finding with its verdict: ok, broken, undefined or shown."""
    verdict: Verdict = "undefined" if finding.value is None else "ok" if holds else "broken"
    return replace(finding, bound=bound, verdict=verdict)


def every_name(sets: Iterable[NameSet]) -> list[str]:
    """Each name once, in the sets' order."""
    return list(dict.fromkeys(name for some in sets for group in some.groups.values() for name in group))


def _by_name(values: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    """Values of texts and names in a table, (texts, names)."""
    return np.stack([values[name] for name in names], axis=1)


# Name swaps: suitability.


def impact(judge: Judge, applications: Sequence[Pair], sets: Sequence[NameSet], bounds: Bounds) -> list[Finding]:
    """Impact ratios of every group under the names of each set, every application once with each name.

    New York City, Local Law 144 of 2021, rules of its agency, 6 RCNY 5-300: a group's selection rate over that of the
    most selected group; the ratio is also given of scoring rates, the share above the sample's median score.
    """
    scores: dict[str, Floats] = {}
    for name in every_name(sets):
        scores[name] = judge([(job, with_name(application, name)) for job, application in applications])
    found: list[Finding] = []
    for some in sets:
        median = np.median([scores[name] for group in some.groups.values() for name in group])
        rules: dict[str, Callable[[Floats], NDArray[np.bool_]]] = {
            QUALIFIED: qualified,
            ABOVE: lambda values, median=median: values > median,  # type: ignore[misc]
        }
        for being, chosen in rules.items():
            selected = [chosen(_by_name(scores, group)).astype(np.float64) for group in some.groups.values()]
            found += impact_ratios(being, some, selected, bounds)
    return found


def impact_ratios(being: str, names: NameSet, selected: Sequence[Floats], bounds: Bounds) -> Iterator[Finding]:
    """A finding a group. selected: of each group (N, names), 1 where an application is selected under a name."""
    rates = np.array([some.mean() for some in selected])
    values, resampled = ratios(rates), ratios(resampled_means(selected))
    for group, value, some in zip(names.groups, values, resampled.T, strict=True):
        finding = Finding(f"{IMPACT}, {being}", f"{names.name}: {group}", float(value), percentiles(some))
        if np.isnan(value):
            finding = replace(finding, value=None, why=f"no application is {being} under any name")
        holds = bool(value >= bounds.impact_ratio)
        yield finding if names.control else judged(finding, f">= {bounds.impact_ratio:g}", holds)


def ratios(rates: Floats) -> Floats:
    """(..., groups): each group's rate over the highest; NaN where that is 0."""
    highest = rates.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(highest > 0, rates / highest, np.nan)


# Rank shifts: search.


def rank_shifts(search: Search, queries: Sequence[str], sets: Sequence[NameSet], bounds: Bounds) -> list[Finding]:
    """How far postings move when the j-th name of one group stands in a query for the j-th of the other, over the sets
    of two groups.

    Any name moves some: the bound is what the next name of the same group does, and a little more. What names do at
    all is seen beside the control.
    """
    sets = two_sided(sets)
    ranked = {name: search([with_name(query, name) for query in queries]) for name in every_name(sets)}
    found: list[Finding] = []
    for some in sets:
        across = list(zip(*some.groups.values(), strict=True))
        within = [pair for group in some.groups.values() for pair in pairwise(group)]
        inside = _findings(some, "within groups", _moved(ranked, within))
        found += [
            row if some.control else _bounded(row, same, bounds)
            for row, same in zip(_findings(some, " / ".join(some.groups), _moved(ranked, across)), inside, strict=True)
        ]
        found += inside
    return found


def two_sided(sets: Sequence[NameSet]) -> list[NameSet]:
    """The sets of two groups: differences between two have a direction."""
    return [some for some in sets if len(some.groups) == 2]


def _bounded(row: Finding, same: Finding, bounds: Bounds) -> Finding:
    if row.what != SHIFT or row.value is None or same.value is None:
        return row
    most = same.value + bounds.rank_shift
    return judged(row, f"<= {most:.2f}, within groups + {bounds.rank_shift:g}", row.value <= most)


def _moved(ranked: Mapping[str, list[list[str]]], pairs: Sequence[tuple[str, ...]]) -> dict[str, Floats]:
    """Each of RANKINGS for each query and pair of names, (N, pairs)."""
    both = [list(zip(ranked[one], ranked[other], strict=True)) for one, other in pairs]
    return {
        what: np.array([[measure(a, b) for a, b in rankings] for rankings in both]).T
        for what, measure in RANKINGS.items()
    }


def _findings(names: NameSet, group: str, values: Mapping[str, Floats]) -> list[Finding]:
    return [
        Finding(what, f"{names.name}: {group}", float(some.mean()), percentiles(resampled_means([some])[:, 0]))
        for what, some in values.items()
    ]


def rank_shift(first: Sequence[str], second: Sequence[str]) -> float:
    """By how many places, on average, each of two rankings' top TOP is off in the opposite ranking; what a ranking
    lacks stands behind its last."""
    moves = []
    for one, other in ((first, second), (second, first)):
        places = {name: place for place, name in enumerate(other)}
        moves += [abs(place - places.get(name, len(other))) for place, name in enumerate(one[:TOP])]
    return float(np.mean(moves)) if moves else 0.0


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """The share of the first ranking's top TOP that is in the second's; two empty rankings agree."""
    return len(set(first[:TOP]) & set(second[:TOP])) / max(1, len(first[:TOP])) if first else float(not second)


def kendall_tau(first: Sequence[str], second: Sequence[str]) -> float:
    """Kendall's tau of two rankings: (pairs in the same order - pairs in opposite order) / pairs, of what both rank; 1
    where that is less than two."""
    places = {name: place for place, name in enumerate(second)}
    order = np.array([places[name] for name in first if name in places])
    if len(order) < 2:
        return 1.0
    later, earlier = np.triu_indices(len(order), 1)
    return float(np.sign(order[earlier] - order[later]).mean())


RANKINGS: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    SHIFT: rank_shift,
    OVERLAP: overlap,
    TAU: kendall_tau,
}

# Sentence templates: sentiment.


def sentiment_differences(sentiment: Sentiment, sets: Sequence[NameSet], bounds: Bounds) -> list[Finding]:
    """The mean difference of expected sentiment between the two groups of a set, over the same sentences."""
    sets = two_sided(sets)
    sentences = templates()
    felt = {name: sentiment([with_name(sentence, name) for sentence in sentences]) for name in every_name(sets)}
    found = []
    for some in sets:
        groups = [_by_name(felt, group) for group in some.groups.values()]
        resampled = resampled_means(groups)
        value = float(groups[0].mean() - groups[1].mean())
        finding = Finding(
            FEELING, f"{some.name}: {' - '.join(some.groups)}", value, percentiles(resampled[:, 0] - resampled[:, 1])
        )
        holds = abs(value) <= bounds.sentiment
        found.append(finding if some.control else judged(finding, f"+-{bounds.sentiment:g}", holds))
    return found
