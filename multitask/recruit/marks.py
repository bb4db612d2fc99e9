"""Which words of a passage carried a match."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from multitask.inference.embed import TextEncoder, Tokens, Vectors
from multitask.recruit.index import Index
from multitask.recruit.passages import Passage
from multitask.recruit.words import Lexical, Word, words

MOST = 6  # words marked in a passage
CACHE_BYTES = 256 * 2**20  # some 10,000 passages of MiniLM
STANDS_OUT = 1.0  # standard deviations above the passage's mean share

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WordStates:
    """A passage's words but stop words, and the sum of each one's token states.

    An encoding by mean pooling is the mean of its tokens' states, so its dot product with a query's vector is an exact
    sum over tokens: `states @ vector` is what each word adds to it, up to a factor that is the passage's. With another
    pooling it still says which states are like the query, but is no sum.
    """

    words: tuple[Word, ...]
    states: NDArray[np.float16]  # (W, H)


class Marker:
    """Marks words in passages. What it needs of a passage is kept, up to `cache_bytes` in all."""

    def __init__(self, encoder: TextEncoder, index: Index, lexical: Lexical, cache_bytes: int = CACHE_BYTES) -> None:
        self.encoder, self.passages, self.lexical = encoder, index.passages, lexical
        self._common = F.normalize(torch.from_numpy(index.vectors).mean(0), dim=0).numpy()
        self._kept: dict[int, WordStates] = {}
        self._room = cache_bytes

    def warm(self) -> None:
        """Keeps what there is room for, so that a search need not run the encoder on passages."""
        at_once = 256
        for start in range(0, len(self.passages), at_once):
            if self._room <= 0:
                return
            self._states(range(start, min(start + at_once, len(self.passages))))

    def marks(self, places: Sequence[int], terms: Collection[str], vector: Vectors | None) -> list[Spans]:
        """For each of some passages, in the text's order, at most MOST words that carried the match with a query of
        these terms and, where it was searched by meaning, of this (H,) vector."""
        if vector is None:
            return [_spans(self._shared(words(self.passages[place].text), terms)) for place in places]
        # What all passages have in common with the query is no reason for one of them: without it, "bookkeeping" goes
        # before "experience".
        own = (vector - self._common * (self._common @ vector)).astype(np.float32)
        return [_spans([*self._shared(some.words, terms), *_near(some, terms, own)]) for some in self._states(places)]

    def _shared(self, found: Sequence[Word], terms: Collection[str]) -> list[Word]:
        """The first occurrence in a passage of each of the query's words, the rarest word first."""
        first = {word.term: word for word in reversed(found) if word.term in terms}
        return sorted(first.values(), key=lambda word: (self.lexical.frequency(word.term), word.start))

    def _states(self, places: Sequence[int]) -> list[WordStates]:
        missing = [place for place in places if place not in self._kept]
        made = dict(zip(missing, self._made(missing), strict=True))
        for place, some in made.items():
            if self._room >= some.states.nbytes:
                self._room -= some.states.nbytes
                self._kept[place] = some
        return [made.get(place) or self._kept[place] for place in places]

    def _made(self, places: Sequence[int]) -> list[WordStates]:
        if not places:
            return []
        some = [self.passages[place] for place in places]
        found = self.encoder.tokens([passage.embedded for passage in some])
        return [_word_states(passage, tokens) for passage, tokens in zip(some, found, strict=True)]


def _word_states(passage: Passage, tokens: Tokens) -> WordStates:
    before = len(passage.embedded) - len(passage.text)
    found = tuple(word for word in words(passage.text) if word.term)
    starts = np.array([word.start + before for word in found], np.int64)
    ends = np.array([word.end + before for word in found], np.int64)
    states = np.zeros((len(found), tokens.states.shape[1]), np.float32)
    if found:  # the last word that begins before a token ends holds it, unless it ends before the token begins
        holder = np.searchsorted(starts, tokens.spans[:, 1], side="left") - 1
        inside = (holder >= 0) & (tokens.spans[:, 0] < ends[holder])
        np.add.at(states, holder[inside], tokens.states[inside])
    return WordStates(found, states.astype(np.float16))


def _near(some: WordStates, terms: Collection[str], vector: Vectors) -> list[Word]:
    """Words beside the query's own whose share of the match stands out, the largest first; of each term its best
    word."""
    if not some.words:
        return []
    shares = some.states.astype(np.float32) @ vector
    least = shares.mean() + STANDS_OUT * shares.std()
    order = [at for at in np.argsort(-shares, kind="stable") if shares[at] >= least]
    best: dict[str, Word] = {}
    for word in (some.words[at] for at in order):
        if word.term not in terms:
            best.setdefault(word.term, word)
    return list(best.values())


def _spans(found: Sequence[Word]) -> Spans:
    return tuple(sorted((word.start, word.end) for word in found[:MOST]))
