"""How a model does on each class: what it answers to it, and what it takes it for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multitask.measure.functions import Floats, f1, precision, recall
from multitask.tasks.labels import KINDS, LabelSpec


@dataclass(frozen=True)
class ClassScores:
    """A class, against all others. precision, recall, f1: None where there is none, as of a class that is never
    given."""

    name: str
    rows: int
    """The examples that are of it."""
    given: int
    """The examples that the model says are."""
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Classes:
    """A task's classes, in the order of their numbers.

    confusion: (W, W) how many examples of each class, a row each, were given each class, a column each; None where an
    example may have several.
    """

    scores: list[ClassScores]
    confusion: NDArray[np.int64] | None


def by_class(given: Floats, wanted: Floats, label: LabelSpec) -> Classes | None:
    """The classes of (N,) labels, or of (N, W) of several; None where labels are no classes."""
    kind = KINDS[label.kind]
    if kind.words is None:
        return None
    names = [label.words[at] if label.words else f"{at}" for at in range(int(label.high) + 1)]
    if kind.several:
        pairs = [(given[:, at], wanted[:, at]) for at in range(len(names))]
    else:
        pairs = [(np.equal(given, at), np.equal(wanted, at)) for at in range(len(names))]
    scores = [
        _scores(name, *(side.astype(np.float64) for side in pair)) for name, pair in zip(names, pairs, strict=True)
    ]
    return Classes(scores, None if kind.several else _confusion(given, wanted, len(names)))


def _scores(name: str, given: Floats, wanted: Floats) -> ClassScores:
    values = [
        None if np.isnan(found) else float(found) for found in (of(given, wanted) for of in (precision, recall, f1))
    ]
    return ClassScores(name, int(wanted.sum()), int(given.sum()), *values)


def _confusion(given: Floats, wanted: Floats, classes: int) -> NDArray[np.int64]:
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (wanted.astype(np.int64), given.astype(np.int64)), 1)
    return found
