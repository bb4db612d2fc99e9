"""What metrics are computed by: functions of what was given and what was wanted, over the last axis or, of labels of
several numbers, the last two. All that comes before stays: (..., N), (..., N) -> (...), so that resamples are measured
at once.

Shapes: N examples, W classes. NaN where there is no value. Equal to scikit-learn's where it has one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 15  # of the expected calibration error (Guo et al., 2017, section 2)


def _share(over: Floats, under: Floats, otherwise: float = np.nan) -> Floats:
    """over / under; `otherwise` where under is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(under > 0, over / under, otherwise)


def _mean_of_classes(values: Floats) -> Floats:
    """(..., W) -> (...); NaN is left out, and is the mean of nothing else."""
    there = ~np.isnan(values)
    return _share(np.where(there, values, 0).sum(axis=-1), there.sum(axis=-1))


# Decisions


def accuracy(given: Floats, wanted: Floats) -> Floats:
    """The share of equal pairs."""
    return np.asarray((given == wanted).mean(axis=-1))


class _Counts:
    """How often each class that is given or wanted anywhere is right, given, and wanted: (..., W) each."""

    def __init__(self, given: Floats, wanted: Floats) -> None:
        classes = np.unique(np.concatenate([np.unique(given), np.unique(wanted)]))
        pairs = [(given == at, wanted == at) for at in classes]
        self.right = np.stack([(one & other).sum(axis=-1) for one, other in pairs], axis=-1).astype(np.float64)
        self.given = np.stack([one.sum(axis=-1) for one, _ in pairs], axis=-1).astype(np.float64)
        self.wanted = np.stack([other.sum(axis=-1) for _, other in pairs], axis=-1).astype(np.float64)
        self.total = float(wanted.shape[-1])

    def f1(self) -> Floats:
        """(..., W); NaN of a class that is neither given nor wanted."""
        return _share(2 * self.right, self.given + self.wanted)

    def of_either(self, values: Floats) -> Floats:
        """The mean of the classes that are given or wanted."""
        return _mean_of_classes(np.where(self.given + self.wanted > 0, values, np.nan))


def balanced_accuracy(given: Floats, wanted: Floats) -> Floats:
    """The mean, over the classes that are wanted, of the share of each that is right."""
    counts = _Counts(given, wanted)
    return _mean_of_classes(_share(counts.right, counts.wanted))


def f1_macro(given: Floats, wanted: Floats) -> Floats:
    """The mean F1 of the classes that are given or wanted."""
    return _mean_of_classes(_Counts(given, wanted).f1())


def f1_weighted(given: Floats, wanted: Floats) -> Floats:
    """The mean F1 of the classes, each weighted by how often it is wanted."""
    counts = _Counts(given, wanted)
    return np.asarray((np.nan_to_num(counts.f1()) * counts.wanted).sum(axis=-1) / counts.total)


def precision_macro(given: Floats, wanted: Floats) -> Floats:
    """The mean, over the classes that are given or wanted, of the share of a class's answers that is right; 0 of a
    class that is never given."""
    counts = _Counts(given, wanted)
    return counts.of_either(_share(counts.right, counts.given, 0.0))


def recall_macro(given: Floats, wanted: Floats) -> Floats:
    """The mean, over the classes that are given or wanted, of the share of each that is found; 0 of a class that is
    never wanted."""
    counts = _Counts(given, wanted)
    return counts.of_either(_share(counts.right, counts.wanted, 0.0))


def mcc(given: Floats, wanted: Floats) -> Floats:
    """Matthews' correlation, of any number of classes (Gorodkin, 2004); 0 where one side is of one class."""
    counts = _Counts(given, wanted)
    total, right = counts.total, counts.right.sum(axis=-1)
    both = right * total - (counts.given * counts.wanted).sum(axis=-1)
    spread = (total**2 - (counts.given**2).sum(axis=-1)) * (total**2 - (counts.wanted**2).sum(axis=-1))
    return _share(both, np.sqrt(spread), 0.0)


def precision(given: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: the share of the 1s given that is right; NaN where none is given."""
    return _share((given * wanted).sum(axis=-1), given.sum(axis=-1))


def recall(given: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: the share of the 1s wanted that is found; NaN where none is wanted."""
    return _share((given * wanted).sum(axis=-1), wanted.sum(axis=-1))


def f1(given: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: the harmonic mean of precision and recall; NaN where no 1 is wanted."""
    found = 2 * (given * wanted).sum(axis=-1)
    return np.where(wanted.sum(axis=-1) > 0, _share(found, given.sum(axis=-1) + wanted.sum(axis=-1)), np.nan)


# Labels of several numbers, 0 or 1: (..., N, W)


def several_f1_micro(given: Floats, wanted: Floats) -> Floats:
    """F1 of all classes together; NaN where no label is 1."""
    return _several_f1(given, wanted, (-2, -1))


def several_f1_macro(given: Floats, wanted: Floats) -> Floats:
    """The mean F1 of the classes that labels have."""
    return _mean_of_classes(_several_f1(given, wanted, -2))


def several_average_precision(logits: Floats, wanted: Floats) -> Floats:
    """The mean `average_precision` of the classes that labels have."""
    return _mean_of_classes(average_precision(np.moveaxis(logits, -2, -1), np.moveaxis(wanted, -2, -1)))


def several_auc(logits: Floats, wanted: Floats) -> Floats:
    """The mean `auc` of the classes that some labels have and some have not."""
    return _mean_of_classes(auc(np.moveaxis(logits, -2, -1), np.moveaxis(wanted, -2, -1)))


def _several_f1(given: Floats, wanted: Floats, axis: int | tuple[int, int]) -> Floats:
    there = wanted.sum(axis=axis)
    found = _share(2 * (given * wanted).sum(axis=axis), given.sum(axis=axis) + there)
    return np.where(there > 0, found, np.nan)


# Numbers


def pearson(given: Floats, wanted: Floats) -> Floats:
    """Pearson's r; NaN where either side is constant."""
    x = given - given.mean(axis=-1, keepdims=True)
    y = wanted - wanted.mean(axis=-1, keepdims=True)
    varies = (np.ptp(given, axis=-1) > 0) & (np.ptp(wanted, axis=-1) > 0)
    norm = np.sqrt((x * x).sum(axis=-1)) * np.sqrt((y * y).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(varies, np.clip((x * y).sum(axis=-1) / norm, -1.0, 1.0), np.nan)


def spearman(given: Floats, wanted: Floats) -> Floats:
    """Pearson's r of the ranks, equal numbers sharing the mean of theirs."""
    return pearson(ranks(given), ranks(wanted))


def ranks(values: Floats) -> Floats:
    """Each number's rank from 1, that of equal ones their mean."""
    order = np.argsort(values, axis=-1, kind="stable")
    rising = np.take_along_axis(values, order, axis=-1)
    first, last = _ends(rising)
    found = np.empty(values.shape)
    np.put_along_axis(found, order, (first + last) / 2 + 1, axis=-1)
    return found


def _ends(rising: Floats) -> tuple[Floats, Floats]:
    """The first and the last place of each number's equals, of sorted ones."""
    places = np.arange(rising.shape[-1])
    steps = np.diff(rising, axis=-1) != 0
    edge = np.ones((*rising.shape[:-1], 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, steps], axis=-1), places, 0), axis=-1)
    ends = np.where(np.concatenate([steps, edge], axis=-1), places, rising.shape[-1] - 1)
    last = np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
    return first.astype(np.float64), last.astype(np.float64)


def kendall(given: Floats, wanted: Floats) -> Floats:
    """Kendall's tau-b (1945), which leaves ties on either side out; NaN where either side is constant."""
    order = np.lexsort((wanted, given), axis=-1)
    x, y = (np.take_along_axis(values, order, axis=-1) for values in (given, wanted))
    pairs = x.shape[-1] * (x.shape[-1] - 1) / 2
    tied_x, tied_y = _tied(x), _tied(np.sort(wanted, axis=-1))
    same = np.concatenate([(np.diff(x) == 0) & (np.diff(y) == 0), np.zeros((*x.shape[:-1], 1), bool)], axis=-1)
    both = _tied(np.cumsum(~np.roll(same, 1, axis=-1), axis=-1).astype(np.float64))
    agreeing = pairs - tied_x - tied_y + both - 2 * _inversions(y)
    return _share(agreeing, np.sqrt(pairs - tied_x) * np.sqrt(pairs - tied_y))


def _tied(rising: Floats) -> Floats:
    """(...) how many pairs of sorted numbers are equal."""
    first, _ = _ends(rising)
    return np.asarray((np.arange(rising.shape[-1]) - first).sum(axis=-1))


def _inversions(values: Floats) -> Floats:
    """(...) how many pairs have the greater number first, by merging sorted halves, all of a length at once."""
    length = 1 << max(0, values.shape[-1] - 1).bit_length()
    filled = np.full((*values.shape[:-1], length), np.inf)
    filled[..., : values.shape[-1]] = values
    found, half = np.zeros(values.shape[:-1]), 1
    while half < length:
        blocks = filled.reshape(*values.shape[:-1], -1, 2 * half)
        order = np.argsort(blocks, axis=-1, kind="stable")  # of equal ones the left half's come first
        is_left = order < half
        greater = half - np.cumsum(is_left, axis=-1)  # of the left half, what is still to come
        found = found + np.where(is_left, 0, greater).sum(axis=(-2, -1))
        filled = np.take_along_axis(blocks, order, axis=-1).reshape(filled.shape)
        half *= 2
    return found


def mae(given: Floats, wanted: Floats) -> Floats:
    """The mean absolute difference, in the label's unit."""
    return np.asarray(np.abs(given - wanted).mean(axis=-1))


def mse(given: Floats, wanted: Floats) -> Floats:
    """The mean squared difference, in the label's unit squared."""
    return np.asarray(((given - wanted) ** 2).mean(axis=-1))


def r2(given: Floats, wanted: Floats) -> Floats:
    """The share of the labels' variance that the predictions explain; NaN where labels are constant."""
    spread = ((wanted - wanted.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return 1 - _share(((given - wanted) ** 2).sum(axis=-1), spread)


# Probabilities, of logits: (..., N) of a yes, or (..., N, W) of classes numbered from 0


def auc(logits: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: how likely a 1 has the greater logit, equal ones counting half; NaN where all labels are
    equal."""
    ones = wanted.sum(axis=-1)
    zeros = wanted.shape[-1] - ones
    above = (ranks(logits) * wanted).sum(axis=-1) - ones * (ones + 1) / 2
    return _share(above, ones * zeros)


def average_precision(logits: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: the sum over n of (R_n - R_n-1) P_n, with recall and precision of the n greatest logits,
    equal ones taken together; NaN where no label is 1."""
    falling, there = np.ascontiguousarray(-logits), np.ascontiguousarray(wanted)
    order = np.argsort(falling, axis=-1)
    falling, there = np.take_along_axis(falling, order, axis=-1), np.take_along_axis(there, order, axis=-1)
    ends = _ends(falling)[1].astype(np.int64)
    hits = there.cumsum(axis=-1)
    precisions = np.take_along_axis(hits, ends, axis=-1) / (ends + 1)
    return _share((precisions * there).sum(axis=-1), hits[..., -1])


def auc_of_classes(logits: Floats, wanted: Floats) -> Floats:
    """The mean `auc` of each class against all others, by the classes' probabilities; NaN where a class is never, or
    always, wanted."""
    one_hot = _one_hot(wanted, logits.shape[-1])
    found = auc(np.moveaxis(np.exp(_log_softmax(logits)), -1, -2), np.moveaxis(one_hot, -1, -2))
    return np.asarray(found.mean(axis=-1))


def log_loss(logits: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: the mean of -log of the probability of what is wanted, nats."""
    return np.asarray((np.logaddexp(0, logits) - logits * wanted).mean(axis=-1))


def log_loss_of_classes(logits: Floats, wanted: Floats) -> Floats:
    """The mean of -log of the probability of the class that is wanted, nats."""
    logs = np.take_along_axis(_log_softmax(logits), wanted[..., None].astype(np.int64), axis=-1)
    return np.asarray(-logs[..., 0].mean(axis=-1))


def brier(logits: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: the mean squared difference from the probability of a 1 (Brier, 1950)."""
    return np.asarray(((_sigmoid(logits) - wanted) ** 2).mean(axis=-1))


def brier_of_classes(logits: Floats, wanted: Floats) -> Floats:
    """The mean, over examples, of the squared differences from the classes' probabilities, summed (Brier, 1950)."""
    apart = np.exp(_log_softmax(logits)) - _one_hot(wanted, logits.shape[-1])
    return np.asarray((apart**2).sum(axis=-1).mean(axis=-1))


def ece(logits: Floats, wanted: Floats) -> Floats:
    """For labels 0 and 1: `_calibration_error` of the decision at one half."""
    yes = _sigmoid(logits)
    return _calibration_error(np.maximum(yes, 1 - yes), (yes > 0.5) == (wanted > 0.5))


def ece_of_classes(logits: Floats, wanted: Floats) -> Floats:
    """`_calibration_error` of the likeliest class."""
    sure = np.exp(_log_softmax(logits)).max(axis=-1)
    return _calibration_error(sure, logits.argmax(axis=-1) == wanted)


def _calibration_error(sure: Floats, right: NDArray[np.bool_]) -> Floats:
    """The expected calibration error (Guo et al., 2017, section 2): how far, in 15 bins of equal width of how sure the
    answers are, the mean of that and the share that is right lie apart, weighted by the bins' sizes."""
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = [np.abs(np.where(bins == at, sure - right, 0).sum(axis=-1)) for at in range(BINS)]
    return np.asarray(np.sum(gaps, axis=0) / sure.shape[-1])


def _one_hot(wanted: Floats, classes: int) -> Floats:
    found: Floats = (wanted[..., None] == np.arange(classes)).astype(np.float64)
    return found


def _sigmoid(logits: Floats) -> Floats:
    found: Floats = np.exp(-np.logaddexp(0, -logits))
    return found


def _log_softmax(logits: Floats) -> Floats:
    moved = logits - logits.max(axis=-1, keepdims=True)
    found: Floats = moved - np.log(np.exp(moved).sum(axis=-1, keepdims=True))
    return found
