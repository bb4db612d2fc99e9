"""How far long work is, told to whoever asks."""

from __future__ import annotations

from collections.abc import Callable

Done = Callable[[int], None]  # how many of this rank's examples, or of a file's rows, are done
Tell = Callable[[str, int, int], None]  # (what is done, how much of it, of how much; 0 where that is not known)


def silent(done: int) -> None:
    """Progress that nobody wants to see."""


def untold(doing: str, done: int, total: int) -> None:
    """Progress of several things that nobody wants to see."""


def told(tell: Tell, doing: str, total: int = 0) -> Done:
    """The progress of one of the things of which `tell` is told."""
    return lambda done: tell(doing, done, total)
