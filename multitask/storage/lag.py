"""Servers whose reads lag behind writes: what this process has just written, or seen, is waited for until it is seen.

Amazon's S3 shows a write at once; some that speak its protocol show it after seconds, or now and then, by which of
their machines answers.
"""

from __future__ import annotations

import threading
import time

SECONDS = 30.0  # how long a write may stay unseen before it counts as not there
LOOK_SECONDS = 0.25  # between two looks
MOST = 10_000  # of the files kept in mind; older ones are forgotten

_written: dict[str, float] = {}  # URI -> when
_lock = threading.Lock()


def note_there(uri: str) -> None:
    with _lock:
        _written.pop(uri, None)
        _written[uri] = time.monotonic()
        while len(_written) > MOST or time.monotonic() - next(iter(_written.values())) > SECONDS:
            _written.pop(next(iter(_written)))


def note_removed(uri: str) -> None:
    """Forgets the writes of a file, or of all below a directory."""
    with _lock:
        for gone in _at(uri):
            del _written[gone]


def awaited(uri: str) -> bool:
    """Whether this process has written or seen a path, or something below it, so lately that a read may not see
    it yet."""
    with _lock:
        return any(time.monotonic() - _written[found] < SECONDS for found in _at(uri))


def awaited_names(uri: str) -> set[str]:
    """The names directly below a directory that `awaited` would say true of."""
    with _lock:
        return {found[len(uri) + 1 :].partition("/")[0] for found in _at(uri) if found != uri}


def _at(uri: str) -> list[str]:
    return [found for found in _written if found == uri or found.startswith(f"{uri.rstrip('/')}/")]
