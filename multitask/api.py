"""The Python API: what `multitask.load_bundle` gives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from multitask.bundle.ensemble import Answering
from multitask.errors import UserError, shown
from multitask.experiment.finding import open_answering
from multitask.inference.embed import Vectors, default_device
from multitask.inference.predict import Answers, answerer, require
from multitask.measure.metrics import Floats

Texts = str | Iterable[str]

SENTIMENT = ("sst", "cfimdb")  # the first of them that the bundle has a head for
PARAPHRASE = ("quora",)
SIMILARITY = ("sts",)


@dataclass(frozen=True, eq=False)
class Sentiment:
    """What `sentiment` answers for N texts.

    labels: (N,) int64, 0 the most negative, up to classes - 1. probabilities: (N, classes) float64.

    There are five classes with the bundle's head for sst; two, if it has only that for cfimdb.
    """

    labels: NDArray[np.int64]
    probabilities: Floats


@dataclass(frozen=True, eq=False)
class Paraphrase:
    """What `paraphrase` answers for N pairs.

    labels: (N,) bool, whether the two texts of a pair say the same. probabilities: (N,) float64, that they do.
    """

    labels: NDArray[np.bool_]
    probabilities: Floats


class Model:
    """A bundle's encoder and heads, or an ensemble's. `load_bundle` makes one.

    Texts are given as a list, or any other iterable; one text alone counts as a list of one. Answers are NumPy arrays
    in the texts' order, empty ones for no texts. Texts of similar length are computed together, so that one call with
    many texts is much faster than many calls. Texts are cut to the bundle's number of tokens, as in its training.

    Every method raises multitask.errors.UserError, one line, for what is no text, for lists of different lengths, and
    where the bundle has no trained head for what is asked; the line names the heads that there are.

    >>> from multitask import load_bundle
    >>> model = load_bundle("bundle", device="cpu")
    >>> model.tasks
    ('sst', 'quora', 'sts')
    >>> model.embed(["A man is playing a guitar.", "Stocks fell."]).shape
    (2, 64)
    """

    def __init__(self, bundle: Answering, device: torch.device | str | None = None) -> None:
        self.bundle = bundle
        self._predictor = answerer(bundle, device or default_device())

    def __repr__(self) -> str:
        return f"<Model tasks={', '.join(self.tasks) or 'none'} device={self._predictor.device}>"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that `predict` answers: those with a trained head, and those whose head has nothing to train."""
        return tuple(self.bundle.answers)

    def embed(self, texts: Texts) -> Vectors:
        """(N, H) float32 sentence embeddings of length 1: the dot product of two is their cosine. An ensemble
        has none: its members' encoders are several.

        >>> vectors = model.embed(["A man is playing a guitar.", "Someone plays music."])
        >>> cosine = vectors[0] @ vectors[1]
        >>> bool(-1 <= cosine <= 1)
        True
        >>> model.embed([]).shape
        (0, 64)
        """
        return self._predictor.embed(texts_of(texts, "texts"))

    def sentiment(self, texts: Texts) -> Sentiment:
        """How positive each text is, by the bundle's head for sst, or else for cfimdb.

        >>> found = model.sentiment(["A warm, funny film.", "Two hours of nothing."])
        >>> found.labels.shape, found.probabilities.shape
        ((2,), (2, 5))
        >>> expected = found.probabilities @ range(5)  # a finer scale: 0.0 to 4.0
        """
        found = self._answer(self._first_of(SENTIMENT), texts)
        assert found.probabilities is not None, "these tasks have classes"
        return Sentiment(found.labels.astype(np.int64), found.probabilities)

    def paraphrase(self, first: Texts, second: Texts) -> Paraphrase:
        """Whether the texts of each pair say the same, by the bundle's head for quora.

        >>> found = model.paraphrase(["How do I learn to sing?"], ["How can I learn singing?"])
        >>> found.labels.dtype, found.probabilities.shape
        (dtype('bool'), (1,))
        """
        found = self._answer(self._first_of(PARAPHRASE), first, second)
        assert found.probabilities is not None, "its label is binary"
        return Paraphrase(found.labels.astype(np.bool_), found.probabilities)

    def similarity(self, first: Texts, second: Texts) -> Floats:
        """(N,) float64, by the bundle's head for sts: 0 for texts that have nothing in common, 5 for the same meaning.

        A bundle without that head has `embed`, whose vectors' dot products are cosines.

        >>> bool(0 <= model.similarity("A man is singing.", "A man sings.")[0] <= 5)
        True
        """
        return self._answer(self._first_of(SIMILARITY, "; the dot product of two of embed's vectors is their cosine"),
                            first, second).labels  # fmt: skip

    def predict(self, task: str, first: Texts, second: Texts | None = None) -> Floats:
        """(N,) float64 labels of one of `tasks`, in its unit: a class, 0 or 1, or a score; (N, W) where a label is W
        numbers. second: for pairs.

        >>> model.predict("sst", ["A warm, funny film."]).shape
        (1,)
        """
        return self._answer(task, first, second).labels

    def probabilities(self, task: str, first: Texts, second: Texts | None = None) -> Floats:
        """(N, classes) float64 of one of `tasks`, or (N,) that the label is 1. Scores, such as those of sts, have none.

        >>> model.probabilities("sst", ["A warm, funny film."]).sum(axis=1).round(6).tolist()
        [1.0]
        """
        return self._predictor.probabilities(task, *self._sides(task, first, second))

    def words(self, task: str) -> tuple[str, ...]:
        """What one of `tasks` calls its labels, that of 0 first; none where they are numbers.

        >>> model.words("sst")
        ()
        """
        require(self.bundle, task)
        return self.bundle.specs[task].label.words

    def _answer(self, task: str, first: Texts, second: Texts | None = None) -> Answers:
        return self._predictor.answer(task, *self._sides(task, first, second))

    def _sides(self, task: str, first: Texts, second: Texts | None) -> tuple[list[str], list[str] | None]:
        require(self.bundle, task)
        return texts_of(first, "first"), None if second is None else texts_of(second, "second")

    def _first_of(self, tasks: tuple[str, ...], advice: str = "") -> str:
        """The first of the tasks that can be answered."""
        found = next((task for task in tasks if task in self.tasks), None)
        if found is None:
            require(self.bundle, tasks[0], advice)
        return found or tasks[0]


def open_model(uri: str, device: str | None = None) -> Model:
    """What multitask.load_bundle gives; its docstring says all."""
    if device is not None:
        _check_device(device)
    return Model(open_answering(uri).bundle, device)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # unknown, or not there
        there_are = dict.fromkeys(("cpu", default_device().type))
        raise UserError(f"device '{device}': not on this machine, which has {', '.join(there_are)}") from error


def texts_of(texts: Texts, name: str) -> list[str]:
    """The texts as a list. Raises UserError, with its place, for what is none."""
    if isinstance(texts, str):
        return texts_of([texts], name)
    try:
        found = list(texts)
    except TypeError:
        raise UserError(f"{name}: {shown(texts)} is neither a text nor a list of texts") from None
    for at, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{name}[{at}]: {shown(text)} is {type(text).__name__}, not text")
        if not _is_unicode(text):
            raise UserError(f"{name}[{at}]: {shown(text)} holds a lone surrogate, which is no character")
    return found


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
