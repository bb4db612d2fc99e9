"""A posting's text in pieces that fit the encoder."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from multitask.recruit.postings import Posting

# Of a passage at most: some 130 tokens, and the title's. Shorter ones suit short queries, longer ones long queries: on
# the 370 real postings hybrid search has an nDCG@10 (query: title / qualifications) of .700 / .330 with 60 words,
# .692 / .349 with 100, .681 / .360 with 150.
PASSAGE_WORDS = 100

_RUN = re.compile(r"\S{1,24}")  # a word as it is counted; a longer one counts as several, and may be cut
_ITEM = re.compile(r"\n\s*([-*•·–]|\d+[.)])\s|\n\s*\n")  # the next line begins an item, or a paragraph
_ENDS = (".", "!", "?", ";", ":")


@dataclass(frozen=True)
class Passage:
    """A piece of a posting's text.

    posting: its place among the postings. text: what is shown. title: what stands before it for the encoder.
    """

    posting: int
    text: str
    title: str = ""

    @property
    def embedded(self) -> str:
        """The text that is embedded for the passage: its title, then `text`."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def passages(postings: Sequence[Posting], without: Collection[str] = (), most: int = PASSAGE_WORDS) -> list[Passage]:
    """Each posting's text but for the fields `without`, in pieces of at most `most` words, in the postings' order.

    A piece says little without its posting's title, so each is embedded with it, unless `title` is in `without`. A
    posting that has nothing but its title is one passage.
    """
    found: list[Passage] = []
    for place, posting in enumerate(postings):
        title = "" if "title" in without else posting.title
        texts = pieces(posting.text({*without, "title"}), most)
        found += [Passage(place, text, title) for text in texts] or [Passage(place, title)]
    return found


def pieces(text: str, most: int = PASSAGE_WORDS) -> list[str]:
    """The text cut between words, where a piece's second half has one at an item's, a sentence's or a line's end.

    Nothing but blanks is lost: they are cut off around a piece.
    """
    runs = [found.span() for found in _RUN.finditer(text)]
    found, first = [], 0
    while first < len(runs):
        last = first + _length(text, runs[first:], most)
        found.append(text[runs[first][0] : runs[last - 1][1]])
        first = last
    return found


def _length(text: str, runs: Sequence[tuple[int, int]], most: int) -> int:
    """How many of the runs the next piece takes. The last two pieces are of similar length."""
    if len(runs) <= most:
        return len(runs)
    longest = max(1, min(most, len(runs) // 2 + most // 4))
    places = range(max(1, most // 2), longest + 1)
    return max(places, key=lambda taken: (_break(text, runs[taken - 1][1], runs[taken][0]), taken), default=longest)


def _break(text: str, end: int, start: int) -> int:
    """How well the text can be cut between a run's end and the next one's start; postings are broken into lines."""
    between, ended = text[end:start], text[end - 1] in _ENDS
    if _ITEM.match(text, end) or ("\n" in between and ended):
        return 3
    return 2 if between and ended else int("\n" in between)


def first_words(text: str, count: int) -> str:
    """The text up to its `count`-th word, unchanged."""
    ends = [found.end() for found in _RUN.finditer(text)][:count]
    return text[: ends[-1]] if ends else text
