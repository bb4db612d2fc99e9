"""The bootstrap (Efron, 1979): how far a number would move, had other examples been drawn. Equal seeds, equal draws."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Places = NDArray[np.int64]
Interval = tuple[float, float]  # 95 %: the lower end, the upper one

Seed = int | Sequence[int]

INTERVAL_SEED = 11711  # the same predictions give the same interval
RESAMPLES = 1000
DRAWN_AT_ONCE = 1_000_000  # numbers: bounds the memory to some 50 MB


def interval(
    statistic: Callable[[Places], Values],
    count: int,
    seed: Seed = INTERVAL_SEED,
    resamples: int = RESAMPLES,
    width: int = 1,
) -> Interval | None:
    """A statistic's 95 % percentile interval over `count` things drawn with replacement; None where it has no value.
    The arguments are those of `resampled`, of a statistic that is one number."""
    return percentiles(resampled(statistic, count, seed, resamples, width))


def resampled(statistic: Callable[[Places], Values], count: int, seed: Seed, resamples: int, width: int = 1) -> Values:
    """(resamples, ...) a statistic over `count` things drawn with replacement.

    statistic: (R, count) places of the things drawn, a resample a row -> (R, ...) values, NaN where there is none.
    width: the numbers that a thing is, for the memory that so many of them take.
    """
    random, at_once, values = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // (count * width)), []
    for start in range(0, resamples, at_once):
        values.append(statistic(random.integers(0, count, (min(at_once, resamples - start), count))))
    return np.concatenate(values)


def mean_interval(
    values: Values,
    units: Places | None = None,
    *,
    shares: bool = False,
    seed: int = INTERVAL_SEED,
    resamples: int = RESAMPLES,
) -> Interval:
    """The mean's 95 % percentile interval over values (N,), or over the units that they belong to.

    units: (N,) values with the same one are drawn together, as they tell the same. shares: whether the values lie in
    0..1 by their nature; where all are 0, or all 1, the interval is Wilson's.
    """
    unit = np.arange(len(values)) if units is None else np.unique(units, return_inverse=True)[1]
    sums, counts = np.bincount(unit, values), np.bincount(unit)
    found = interval(lambda picks: sums[picks].sum(axis=1) / counts[picks].sum(axis=1), len(sums), seed, resamples)
    assert found is not None, "a mean has a value"
    if shares and found[0] == found[1] and found[0] in (0, 1):
        return share_interval(found[0], len(sums))
    return found


def clustered_interval(
    statistic: Callable[[Places], float],
    clusters: Sequence[Hashable],
    seed: int = INTERVAL_SEED,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """A statistic's 95 % percentile interval over resampled clusters of rows; None where it has no value.

    statistic: (M,) rows -> its value, NaN where there is none. clusters: (N,) what each row belongs to: rows of one
    posting are not independent.
    """
    members: dict[Hashable, list[int]] = {}
    for row, name in enumerate(clusters):
        members.setdefault(name, []).append(row)
    groups = [np.array(rows) for rows in members.values()]

    def values(picks: Places) -> Values:
        return np.array([statistic(np.concatenate([groups[at] for at in drawn])) for drawn in picks])

    return interval(values, len(groups), seed, resamples)


def resampled_means(groups: Sequence[Values]) -> Values:
    """The means of values (N, names) of each group, (RESAMPLES, groups), over texts and names drawn with replacement:
    one draw of texts for all groups, and a draw of names for each.

    Resampling texts alone would let a few names' chance pass for their group's.
    """
    drawn = np.random.default_rng(INTERVAL_SEED)
    texts, means = _times_drawn(drawn, len(groups[0])), []
    for some in groups:  # counts first, shares last: equal answers have equal means
        names = _times_drawn(drawn, some.shape[1])
        means.append(np.einsum("rt,tn,rn->r", texts, some, names, optimize=True) / some.size)
    return np.stack(means, axis=1)


def _times_drawn(drawn: np.random.Generator, count: int) -> Values:
    """(RESAMPLES, count) how often each of `count` things is drawn."""
    return drawn.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def percentiles(values: Values) -> Interval | None:
    """The middle 95 % of resampled values (R,), NaN left out; None where there are no others."""
    if np.isnan(values).all():
        return None
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


def two_sided_p(differences: Values) -> float | None:
    """How likely a difference as far from 0 would be, were there none: twice the smaller share of the resampled
    differences (R,) at or beyond 0, one resample added to each (Davison and Hinkley, 1997, formulas 4.11 and 5.6). None
    where there are none but NaN. It is below .05 where the percentile interval leaves 0 out."""
    found = differences[~np.isnan(differences)]
    if not len(found):
        return None
    beyond = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(found) + 1))


def share_interval(share: float, count: int) -> Interval:
    """Wilson's 95 % interval of a share, 0..1, of so many trials (Wilson, 1927, formula 7)."""
    z2 = NormalDist().inv_cdf(0.975) ** 2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))
