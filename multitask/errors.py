"""What a user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2.

    The message names the thing, its value, where it came from, and what would be valid. White space is
    folded, so that it stays one line whatever was given.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class StorageError(UserError):
    """A storage refuses, has no room, or has not answered for so long that it was given up.

    The message says what could not be done, where, the last error, and what to do.
    """


@contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Around the reading of a file that this program writes. Raises UserError, naming it, where it has another form."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{what}: damaged: {type(error).__name__}: {error}") from error
