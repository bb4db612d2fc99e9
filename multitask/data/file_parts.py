"""A part of a file: rows told apart by their content, so that no row ever changes sides when others are added.

A part is written behind the file's URI, `reviews.csv#dev of dev=0.1,test=0.0`, and goes wherever a URI goes; so is a
share of a file's rows, `crawl.csv#all of share=0.1`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_MARK = re.compile(
    r"#(?P<name>all|train|dev|test) of (?=\w)"
    r"(?:fold=(?P<fold>\d+)/(?P<folds>\d+),?|dev=(?P<dev>[\d.e-]+),test=(?P<test>[\d.e-]+),?)?"
    r"(?:share=(?P<share>[\d.e-]+),?)?(?:by=(?P<by>.+))?$"
)


@dataclass(frozen=True)
class Part:
    """The rows of a file that are one of its splits."""

    name: str = "all"
    """train, dev or test, of a file that is cut into them; else all."""
    dev: float = 0.0
    """The share of the rows, by chance of their content, that are dev."""
    test: float = 0.0
    """The share that are test."""
    by: str | None = None
    """The column whose rows of equal value stay together; None keeps rows of equal texts together."""
    fold: int = 0
    """Which fold dev is, from 1, where the rows are cut into `folds` equal parts."""
    folds: int = 0
    share: float = 1.0
    """How much of what is meant is read, by another chance of the rows' content."""

    @property
    def mark(self) -> str:
        """What stands behind the file's URI."""
        cut = f"fold={self.fold}/{self.folds}" if self.folds else f"dev={self.dev},test={self.test}"
        said = [] if self.name == "all" else [cut]
        said += [f"share={self.share}"] if self.share < 1 else []
        said += [f"by={self.by}"] if self.by else []
        return f"#{self.name} of {','.join(said)}"

    def holds(self, key: str) -> bool:
        """Whether a row is in the part. key: what its rows are told apart by."""
        named = self.name == "all" or self.name == self._split(_place(key))
        return named and (self.share >= 1 or _place(f"share\0{key}") < self.share)

    def _split(self, place: float) -> str:
        if self.folds:
            return "dev" if int(place * self.folds) == self.fold - 1 else "train"
        return "dev" if place < self.dev else "test" if place < self.dev + self.test else "train"


def _place(key: str) -> float:
    """A number from 0 to below 1 that the key alone decides, evenly over keys."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / (1 << 64)


def key_of(texts: Sequence[str]) -> str:
    """What a row is told apart by where no column says so."""
    return "\0".join(texts)


def parted(uri: str) -> tuple[str, Part | None]:
    """The file's URI, and the part of it that is meant; None for all of it."""
    found = _MARK.search(uri)
    if found is None:
        return uri, None
    said = found.groupdict()
    dev, test = (float(said[name] or 0) for name in ("dev", "test"))
    fold, folds = (int(said[name] or 0) for name in ("fold", "folds"))
    share = float(said["share"] or 1)
    return uri[: found.start()], Part(said["name"], dev, test, said["by"], fold, folds, share)
