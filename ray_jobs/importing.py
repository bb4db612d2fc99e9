"""Heavy imports, without Python's garbage collector: it finds nothing there and takes a tenth of their time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports within it are not interrupted by a collection, nor looked at by later ones.

    Garbage that there is already goes first, or it would stay for good: an earlier run's models, where a process runs
    several.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
