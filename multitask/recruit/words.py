"""A text's words: where they stand, and what they have in common with another text's."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Letters of any script, with signs that combine with them; C++ and C# are words.
_WORD = re.compile(r"[\w\u0300-\u036f]+[+#]*")

# English words that say nothing of a job by themselves, and the remains of "he's" and "don't".
_STOP = """
    a about above after again all along also am among an and any are as at be because been before being below
    between both but by can cannot could d did do does doing down during each either etc few for from further had has
    have having he her here hers him himself his how however i if in into is it its itself just ll may me might more
    most must my myself no nor not of off on once only or other our ours out over own per re s same shall she should
    so some such t than that the their theirs them then there these they this those through thus to too under until
    up upon us ve very via was we well were what when where whether which while who whom whose why will with within
    without would you your yours
"""
STOP_WORDS = frozenset(_STOP.split())
MEANT = frozenset({"IT"})  # written so it is no stop word


class Word(NamedTuple):
    """A word in a text.

    start, end: characters of the text. term: what it has in common with its other forms; empty for a stop word.
    """

    start: int
    end: int
    term: str


def words(text: str) -> list[Word]:
    return [Word(*found.span(), term(found[0])) for found in _WORD.finditer(text)]


def terms(text: str) -> list[str]:
    """The words' terms in their order, without stop words."""
    return [word.term for word in words(text) if word.term]


@lru_cache(maxsize=100_000)
def term(word: str) -> str:
    """The word without case, accents and an English plural's ending; empty for a stop word.

    The plural's rules are those of Harman, "How effective is suffixing?" (1991), the S stemmer.
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign)).casefold()
    if (plain in STOP_WORDS and word not in MEANT) or not plain.strip("_"):
        return ""
    if len(plain) > 3:
        if plain.endswith("ies") and not plain.endswith(("eies", "aies")):
            return plain[:-3] + "y"
        if plain.endswith("s") and not plain.endswith(("us", "ss", "is")):
            return plain[:-1]
    return plain


class Lexical:
    """BM25 scores of texts for a query's words."""

    def __init__(self, texts: Sequence[str]) -> None:
        from bm25s import BM25

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # its own is DEBUG
        found = [terms(text) for text in texts]
        self.count, self._bm25 = len(found), None
        self._frequency = Counter(term for some in found for term in set(some))
        if any(found):  # of no words at all it makes no index
            self._bm25 = BM25()
            self._bm25.index(found, show_progress=False)

    def frequency(self, term: str) -> int:
        """How many of the texts have the term."""
        return self._frequency[term]

    def scores(self, query: str) -> NDArray[np.float32]:
        """(N,) each text's BM25 score; 0 where it has none of the query's words."""
        asked = terms(query)
        if self._bm25 is None or not asked:
            return np.zeros(self.count, np.float32)
        return np.asarray(self._bm25.get_scores(asked), np.float32)
