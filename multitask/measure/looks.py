"""A closer look at a dev set: what each class is taken for, whether answers are as sure as they are right, and where
the model is most wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from multitask.data.tokens import TokenTable
from multitask.measure.classes import by_class
from multitask.measure.functions import Floats
from multitask.measure.metrics import Predicted
from multitask.tasks.labels import KINDS, LabelSpec

BINS = 10  # of equal width, of how sure answers are
MOST_CLASSES = 20  # whose confusion is kept


@dataclass(frozen=True)
class Worst:
    """A row that the model gets wrong."""

    row: int
    """Its number in the table."""
    label: float
    predicted: float
    sure: float
    """How probable the model finds its answer; of scores, how far off it is."""


@dataclass(frozen=True)
class Look:
    """What a task's dev set looks like to a model. Parts that its kind of label has not are empty."""

    names: list[str]
    """The classes, in the order of their numbers."""
    confusion: list[list[int]]
    """How many rows of each class, a list each, were given each class."""
    calibration: list[tuple[float, float, int]]
    """Bin by bin, where it has rows: how sure the answers are on average, the share that is right, how many there
    are."""
    worst: list[Worst]
    """The rows that the model is surest of and wrong about, or furthest off, the worst first."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look_at(predicted: Predicted, table: TokenTable, label: LabelSpec, worst: int = 8) -> Look | None:
    """The look of a dev set's N predictions; None of labels that are several numbers, where none is known, and of
    predictions that are no numbers. worst: how many rows are named."""
    kind, wanted = KINDS[label.kind], table.labels.double().numpy()
    given = predicted.labels.double().numpy()
    if kind.several or not len(wanted) or np.isnan(wanted).any() or not np.isfinite(given).all():
        return None
    if predicted.logits is not None and not bool(predicted.logits.isfinite().all()):
        return None
    classes = by_class(given, wanted, label)
    if classes is None or predicted.logits is None:
        off = np.abs(given - wanted)
        return Look([], [], [], _worst(off, off, given, wanted, worst))
    sure, wrong = _sureness(predicted.logits), given != wanted
    small = classes.confusion is not None and len(classes.scores) <= MOST_CLASSES
    return Look(
        [one.name for one in classes.scores],
        classes.confusion.tolist() if small and classes.confusion is not None else [],
        _bins(sure, ~wrong),
        _worst(np.where(wrong, sure, -1.0), sure, given, wanted, worst),
    )


def _sureness(logits: torch.Tensor) -> Floats:
    """(N,) the probability of what is answered: (N, classes) logits, or (N,) of yes or no."""
    if logits.ndim > 1:
        found: Floats = logits.double().softmax(dim=-1).amax(dim=-1).numpy()
        return found
    yes = logits.double().sigmoid()
    sure: Floats = torch.maximum(yes, 1 - yes).numpy()
    return sure


def _bins(sure: Floats, right: Any) -> list[tuple[float, float, int]]:
    places = np.clip((sure * BINS).astype(np.int64), 0, BINS - 1)
    return [
        (float(sure[here].mean()), float(right[here].mean()), int(here.sum()))
        for at in range(BINS)
        if (here := places == at).any()
    ]


def _worst(order: Floats, told: Floats, given: Floats, wanted: Floats, most: int) -> list[Worst]:
    """The rows of the greatest `order` above 0, ties by their place; `most` of them."""
    rows = np.argsort(-order, kind="stable")[:most]
    return [Worst(int(row), float(wanted[row]), float(given[row]), float(told[row])) for row in rows if order[row] > 0]


def texts_of_row(table: TokenTable, row: int, tokenizer: Any) -> list[str]:
    """A row's texts, as far as tokens tell."""
    sentences = range(row * table.sentences, (row + 1) * table.sentences)
    return [tokenizer.decode(table.sentence(at).tolist()) for at in sentences]
