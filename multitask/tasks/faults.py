"""Whose code has failed: an error in a user's own is told with its import path and line, as what the user can mend."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multitask.errors import UserError
from multitask.storage.retries import is_passing
from multitask.tasks.imported import files

LONGEST = 500  # characters of an error's own words
# What may be another rank's failure, or the memory's: who waits or allocates there has not caused it.
OTHERS = "/torch/distributed/"
OF_MEMORY = "OutOfMemoryError"


class OwnCodeError(UserError):
    """A user's own code has failed; the cause is its error."""


@contextmanager
def own_faults() -> Iterator[None]:
    """Around what calls a user's own code. Raises OwnCodeError where that has failed, else what was raised."""
    try:
        yield
    except Exception as error:
        if line := fault_of(error):
            raise OwnCodeError(line) from error
        raise


def fault_of(error: Exception) -> str | None:
    """What to say of an error that came out of a user's own code: its import path, the error, its file and line. None
    where it came from elsewhere, or may pass."""
    frames = list(traceback.walk_tb(error.__traceback__))
    inside = [frame.f_code.co_filename for frame, _ in frames]
    own = files()
    at = max((at for at, file in enumerate(inside) if file in own), default=None)
    passes = is_passing(error) or type(error).__name__ == OF_MEMORY
    if at is None or passes or isinstance(error, UserError) or any(OTHERS in file for file in inside[at:]):
        return None
    paths = own[inside[at]]
    called = {frame.f_code.co_qualname.partition(".")[0] for frame, _ in frames}
    named = [path for path in paths if path.partition(":")[2] in called] or paths
    who = named[0] if len(named) == 1 else named[0].partition(":")[0]
    said = " ".join(str(error).split())[:LONGEST]
    where = Path(inside[at])
    shown = where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where
    return f"{who}: {type(error).__name__}: {said}, at {shown}:{frames[at][1]}"
