"""Which texts are nearly another, among many: MinHash (Broder, 1997) with bands (Leskovec et al., 2014, chapter 3).

In NumPy, all texts at once: datasketch, which the recruiter finds some hundred repeated postings with, takes more than
a millisecond a text, minutes for the hundred thousand sentences of a recipe's files.

Shapes: N units of one or two texts each; L runs of words, all units' end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Hashes = NDArray[np.uint64]

SIMILAR = 0.7  # Jaccard similarity of two units' runs of words from which they are near
RUN = 3  # words
# A band holds for near units with probability .7 ** DEEP or more; that none does, with (1 - .7 ** 4) ** 24 = .0015.
BANDS, DEEP = 24, 4
CROWD = 16  # candidates of a band that are looked at: a template's texts, of which there may be thousands, are alike
SLACK = 0.2  # how far a similarity that signatures estimate may lie below SIMILAR and still be looked at
CHUNK = 16_384  # units that are read at a time

_WORD_BITS = 21
_FACTORS = np.random.default_rng(11711).integers(0, 2**63, BANDS * DEEP, np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True, eq=False)
class Sketches:
    """What is known of N units' runs of words.

    runs: (L,) uint64. offsets: (N + 1,). signatures: (N, BANDS * DEEP) uint32.
    """

    runs: Hashes
    offsets: Places
    signatures: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def runs_of(self, unit: int) -> set[int]:
        return set(self.runs[self.offsets[unit] : self.offsets[unit + 1]].tolist())

    @cached_property
    def bands(self) -> Hashes:
        """(BANDS, N) a hash of each band of the signatures."""
        parts = self.signatures.astype(np.uint64).reshape(len(self), BANDS, DEEP)
        found = np.zeros((len(self), BANDS), np.uint64)
        for place in range(DEEP):
            found = _mixed(found ^ (parts[:, :, place] + np.uint64(place + 1)))
        return np.ascontiguousarray(found.T)

    @cached_property
    def order(self) -> Places:
        """(BANDS, N) the units, sorted by each band's hash."""
        return np.argsort(self.bands, axis=1, kind="stable")

    @cached_property
    def ordered(self) -> Hashes:
        return np.take_along_axis(self.bands, self.order, axis=1)


class Sketcher:
    """Makes sketches, with numbers of words that hold for all that it makes."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, units: Sequence[Sequence[str]], progress: Callable[[int], None] = lambda done: None) -> Sketches:
        """The sketches of units of texts whose words are separated by blanks. progress: told of the units done."""
        runs, counts, signatures = [np.zeros(0, np.uint64)], [0], [np.zeros((0, BANDS * DEEP), np.uint32)]
        for start in range(0, len(units), CHUNK):
            found = self._chunk(units[start : start + CHUNK])
            runs.append(found[0])
            counts += found[1]
            signatures.append(found[2])
            progress(min(start + CHUNK, len(units)))
        return Sketches(np.concatenate(runs), np.cumsum(counts), np.concatenate(signatures))

    def _chunk(self, units: Sequence[Sequence[str]]) -> tuple[Hashes, list[int], NDArray[np.uint32]]:
        """The runs of some units, how many each has, and signatures."""
        numbers, flat, lengths = self._numbers, list[int](), list[int]()
        for texts in units:
            for text in texts:
                words = [numbers.setdefault(word, len(numbers) + 1) for word in text.split()]
                words += [0] * (RUN - len(words))  # a shorter text is one run
                flat += words
                lengths.append(len(words))
        runs = _runs(np.array(flat, np.uint64), np.array(lengths))
        of_texts = iter(length - RUN + 1 for length in lengths)
        counts = [sum(next(of_texts) for _ in texts) for texts in units]
        starts = np.cumsum([0, *counts[:-1]])
        hashed = _mixed(runs)
        signatures = np.empty((len(units), BANDS * DEEP), np.uint32)
        for place, factor in enumerate(_FACTORS):  # multiply-shift, of hashes that are random already
            high = ((hashed * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[:, place] = np.minimum.reduceat(high, starts)
        return runs, counts, signatures


def _runs(words: Hashes, lengths: Places) -> Hashes:
    """Each run of RUN words inside a text as one number; exact for the first two million different words."""
    low = words & np.uint64((1 << _WORD_BITS) - 1)
    runs = np.zeros(len(words) - RUN + 1, np.uint64)
    for place in range(RUN):
        runs = (runs << np.uint64(_WORD_BITS)) | low[place : len(low) - RUN + 1 + place]
    whole = np.ones(len(words), bool)
    ends = np.cumsum(lengths)
    for back in range(1, RUN):
        whole[ends - back] = False
    return runs[whole[: len(runs)]]


def _mixed(values: Hashes) -> Hashes:
    """A hash of each number: splitmix64's last steps (Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def near(mine: Sketches, asked: Places, others: Sketches) -> Places:
    """(asked,) a unit of `others` that each of those units of `mine` is near to; -1 where none is found."""
    found = np.full(len(asked), -1)
    for band in range(BANDS if len(others) else 0):
        left = np.flatnonzero(found < 0)
        hashes, ordered = mine.bands[band, asked[left]], others.ordered[band]
        first = np.searchsorted(ordered, hashes)
        for step in range(CROWD):
            at = np.minimum(first + step, len(others) - 1)
            there = (first + step < len(others)) & (ordered[at] == hashes) & (found[left] < 0)
            if not there.any():
                break
            _look(mine, asked, left[there], others, others.order[band, at[there]], found)
    return found


def _look(mine: Sketches, asked: Places, places: Places, others: Sketches, candidates: Places, found: Places) -> None:
    """Notes the candidates, one for each of those places, that are near indeed."""
    alike = (mine.signatures[asked[places]] == others.signatures[candidates]).mean(axis=1) >= SIMILAR - SLACK
    for place, other in zip(places[alike].tolist(), candidates[alike].tolist(), strict=True):
        if jaccard(mine.runs_of(int(asked[place])), others.runs_of(other)) >= SIMILAR:
            found[place] = other


def jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / max(1, len(one | other))
