"""A text without what two copies of it may differ in."""

from __future__ import annotations

import unicodedata


class _Punctuation(dict[int, str]):
    """A table for str.translate: a blank for each sign of punctuation, every other character as it is."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = " " if unicodedata.category(sign).startswith("P") else sign
        return self[code]


_BLANKS = _Punctuation()


def plain(text: str) -> str:
    """The text in Unicode's compatibility form (NFKC), without case, with a blank for all punctuation and white space
    between two words. A text of punctuation alone keeps it: "!" and "?" are two texts."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_BLANKS).split()) or " ".join(folded.split())
