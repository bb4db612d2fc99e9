"""What can befall a file: a bit flips, the end is lost, a page reads as zeros, another run's file lies in its place."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice

PAGE = 4096  # bytes, of a disk and of memory
# Of twenty hits sixteen flip a bit, three cut the file, and one loses a page; the swap is a hit of its own, the first.
TURNS = ["flip", "cut", "flip", "flip", "flip", "flip", "zero", "flip", "flip", "flip"]
TURNS += ["flip", "cut", "flip", "flip", "flip", "flip", "cut", "flip", "flip", "flip"]


@dataclass(frozen=True)
class Hit:
    """how: swap, zero, cut or flip. place: the page, the bytes that are left, the bit."""

    how: str
    place: int = 0

    def of(self, data: bytes, other: bytes) -> bytes:
        """The file's content after the hit. other: the other run's file."""
        return HOW[self.how](data, self.place, other)

    def __str__(self) -> str:
        return self.how if self.how == "swap" else f"{self.how} {self.place}"


def _flipped(data: bytes, bit: int, other: bytes) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _zeroed(data: bytes, page: int, other: bytes) -> bytes:
    gone = len(data[page * PAGE : (page + 1) * PAGE])
    return data[: page * PAGE] + bytes(gone) + data[page * PAGE + gone :]


HOW: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "swap": lambda data, place, other: other,
    "cut": lambda data, left, other: data[:left],
    "flip": _flipped,
    "zero": _zeroed,
}


def hits(data: bytes, other: bytes, seed: str, count: int) -> list[Hit]:
    """At most `count` hits that change the file, none of them twice; the first of more are those of fewer."""
    found = ([Hit("swap")] if other != data else []) + list(islice(_drawn(data, random.Random(seed)), count))
    return found[:count]


def _drawn(data: bytes, drawn: random.Random) -> Iterator[Hit]:
    pages = [page for page in range(-(-len(data) // PAGE)) if any(data[page * PAGE : (page + 1) * PAGE])]
    drawn.shuffle(pages)
    places = {"flip": _without_repetition(len(data) * 8, drawn), "cut": _without_repetition(len(data), drawn)}
    places["zero"] = iter(pages)
    for how in cycle(TURNS):
        if (place := next(places.get(how, iter(())), None)) is not None:
            yield Hit(how, place)
        elif how == "flip":  # the most numerous are used up: all others are too, but for a page or two
            return


def _without_repetition(size: int, drawn: random.Random) -> Iterator[int]:
    """Every number below `size` once, in an order that is drawn."""
    seen = set[int]()
    while len(seen) < size:
        if (place := drawn.randrange(size)) not in seen:
            seen.add(place)
            yield place
