"""A need, or a CV -> the postings that fit it, by meaning and by words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from multitask.bundle.bundle import read_bundle
from multitask.errors import UserError, near
from multitask.inference.embed import TextEncoder, Vectors
from multitask.recruit.index import ENCODER, NEIGHBOURS, Index, load_index, words_within
from multitask.recruit.marks import Marker, Spans
from multitask.recruit.passages import pieces
from multitask.recruit.postings import Posting
from multitask.recruit.words import Lexical, terms
from multitask.storage.storage import Storage


class Mode(NamedTuple):
    """A posting's score is dense * cosine + lexical * BM25 / the best posting's BM25."""

    dense: float
    lexical: float


# Chosen on the 370 real postings, each one's held-out field as a query, nDCG@10 with all-MiniLM-L6-v2 as it is (query:
# title / whole qualifications). Alone: BM25 .637 / .282, dense .581 / .278. Together: this sum .692 / .349, of min-max
# scores (.3 of BM25) .692 / .348, of z-scores (.3) .690 / .348, reciprocal ranks (60) .636 / .327, (1) .654 / .329. Of
# those that are alike this one needs no other postings' cosines, which an approximate search does not have.
# Its weight matters: .1 gives .665 / .328, .15 .686 / .342, .25 .687 / .347, .3 .684 / .337, .5 .675 / .329. These are
# the postings that search is measured on, too; chosen anew on four fifths of them, in turn, it is .2 each time.
MODES = {"hybrid": Mode(0.8, 0.2), "dense": Mode(1.0, 0.0), "bm25": Mode(0.0, 1.0)}

WHOLE_QUERY = 300  # words of a piece of a long query, if the encoder takes that many


@dataclass(frozen=True)
class Hit:
    """A posting that a search found.

    passage: the posting's best one. words: characters of it, start and end, of those that carried the match.
    """

    posting: Posting
    score: float
    passage: str
    words: Spans


@dataclass(frozen=True)
class _Match:
    """One query's scores: (N,) of postings, (P,) of passages; vector: (H,), where it was searched by meaning."""

    postings: NDArray[np.float32]
    passages: NDArray[np.float32]
    vector: Vectors | None


class Searcher:
    """An index with its vectors' encoder. Searching changes nothing of it but a cache: threads may share one."""

    def __init__(self, index: Index, encoder: TextEncoder) -> None:
        self.index, self.encoder = index, encoder
        self.lexical = Lexical([passage.embedded for passage in index.passages])
        self.marker = Marker(encoder, index, self.lexical)
        self._posting = np.array([passage.posting for passage in index.passages], np.int64)
        self._starts = np.flatnonzero(np.diff(self._posting, prepend=-1))

    @classmethod
    def open(cls, uri: str, device: torch.device | str = "cpu") -> Searcher:
        """A searcher over the index at a URI. Raises UserError where there is no sound one."""
        storage = Storage(uri)
        index = load_index(storage)
        return cls(index, TextEncoder(read_bundle(storage, ENCODER), device))

    def warm(self) -> None:
        """Computes once what marking words needs of passages: a minute for some thousands of them."""
        self.marker.warm()

    def search(self, queries: Sequence[str], k: int = 10, mode: str = "hybrid") -> list[list[Hit]]:
        """Each query's k best postings, or all that are found; none for an empty query, nor where words alone decide
        (bm25) and no posting has one of the query's.

        Raises UserError for a k below 1 and an unknown mode.
        """
        if k < 1:
            raise UserError(f"k {k}: how many postings to find, at least 1")
        found = zip(queries, self._matches(queries, mode), strict=True)
        return [self._hits(query, match, k) if query.strip() else [] for query, match in found]

    def scores(self, queries: Sequence[str], mode: str = "hybrid") -> Iterator[NDArray[np.float32]]:
        """(N,) of each query in turn: all postings' scores; -inf for what an approximate search does not look at."""
        return (match.postings for match in self._matches(queries, mode))

    def _matches(self, queries: Sequence[str], mode: str) -> Iterator[_Match]:
        if mode not in MODES:
            raise UserError(f"mode '{mode}': valid are {', '.join(MODES)}{near(mode, MODES)}")
        weights = MODES[mode]
        # A query is best left whole. Where it cannot be, a posting's cosine is the mean of the pieces' best passages':
        # nDCG@10 of the 93 qualifications of over 100 words, whole .361; cut at 100 words, mean of the best .360, the
        # best of the best .312, the pieces' mean vector .344.
        words = words_within(self.encoder.max_length, WHOLE_QUERY)
        cut = [pieces(query, words) or [query] if weights.dense else [] for query in queries]
        vectors = self.encoder.embed([piece for some in cut for piece in some])
        ends = np.cumsum([len(some) for some in cut])
        return (
            self._match(query, vectors[end - len(some) : end], weights)
            for query, some, end in zip(queries, cut, ends, strict=True)
        )

    def _match(self, query: str, vectors: Vectors, weights: Mode) -> _Match:
        """One query's match with every posting. vectors: (M, H) of the query's pieces, none where only words count."""
        lexical = self.lexical.scores(query)
        lexical /= max(float(lexical.max()), 1e-9)
        if not weights.dense:
            return _Match(self._best(lexical), lexical, None)
        dense = self._cosines(vectors, lexical)
        return _Match(
            weights.dense * self._best(dense).mean(0) + weights.lexical * self._best(lexical),
            weights.dense * dense.mean(0) + weights.lexical * lexical,
            vectors.mean(0),
        )

    def _best(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of passages (..., P) -> of postings (..., N): a posting's is its best passage's."""
        return np.maximum.reduceat(scores, self._starts, axis=-1)

    def _cosines(self, vectors: Vectors, lexical: NDArray[np.float32]) -> NDArray[np.float32]:
        """(M, P) cosines of vectors with passages; with an approximate index -inf but for postings that it or BM25
        proposes."""
        if self.index.nearest is None:
            return vectors @ self.index.vectors.T
        proposed = np.concatenate([*self.index.neighbours(vectors), np.argsort(-lexical)[:NEIGHBOURS]])
        some = np.flatnonzero(np.isin(self._posting, self._posting[proposed]))
        found = np.full((len(vectors), len(self._posting)), -np.inf, np.float32)
        found[:, some] = vectors @ self.index.vectors[some].T
        return found

    def _hits(self, query: str, match: _Match, k: int) -> list[Hit]:
        least = 0.0 if match.vector is None else -np.inf
        order = np.argsort(-match.postings, kind="stable")[:k]
        best = [int(place) for place in order if match.postings[place] > least]
        shown = [self._shown(place, match.passages) for place in best]
        marks = self.marker.marks(shown, set(terms(query)), match.vector)
        return [
            Hit(self.index.postings[place], float(match.postings[place]), self.index.passages[passage].text, spans)
            for place, passage, spans in zip(best, shown, marks, strict=True)
        ]

    def _shown(self, posting: int, scores: NDArray[np.float32]) -> int:
        """The passage by which a posting is shown: its best one."""
        start = self._starts[posting]
        end = self._starts[posting + 1] if posting + 1 < len(self._starts) else len(self._posting)
        return int(start + np.argmax(scores[start:end]))
