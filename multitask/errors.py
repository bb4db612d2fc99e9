"""Errors that a user can mend, and how they are worded and shown."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache

# What a terminal would obey instead of showing it: control characters, and signs that turn a line's direction.
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

SHOWN_CHARS = 40  # of a value in a message
LISTED = 10  # names in a message


class UserError(Exception):
    """A mistake in what the user gave. The command line prints it as one line and exits with status 2.

    The message names the thing, its value, where it came from, and what would be valid. White space is folded, so that
    it stays one line whatever was given, and what a terminal would obey is written as its escape.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class StorageError(UserError):
    """A storage refuses, has no room, or has not answered for so long that it was given up.

    The message says what could not be done, where, the last error, and what to do.
    """


class Overtaken(RuntimeError):
    """Another process owns now what this one was about to write or remove: it leaves that alone, and ends."""


def printable(text: str) -> str:
    """The text with Python's escapes for what a terminal would obey; line feeds and tabs stay."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PlainFormatter(logging.Formatter):
    """Lines of a log as a terminal may show them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@cache
def warn_once(line: str) -> None:
    """Logs a warning once in a process, however often there is cause for it."""
    logging.getLogger(__name__).warning(line)


def near(name: object, known: Iterable[str]) -> str:
    """What to add to an error about a name that is not there: the nearest of the known ones, or "" where none is."""
    by_letters = {found.lower(): found for found in known if found != name}
    found = get_close_matches(str(name).lower(), by_letters, n=1)
    return f"; did you mean {by_letters[found[0]]}?" if found else ""


def shown(value: object) -> str:
    """The value as a short Python literal, safe to print on one line."""
    literal = repr(value[: SHOWN_CHARS + 1] if isinstance(value, str) else value)
    return literal if len(literal) <= SHOWN_CHARS else literal[:SHOWN_CHARS] + "..."


def short_list(names: Iterable[str]) -> str:
    """The first ten names, and how many there are where there are more."""
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > LISTED else ""
    return ", ".join(listed[:LISTED]) + more


@contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Around the reading of a file that this program writes. Raises UserError, naming it, where it has another form."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{what}: damaged: {type(error).__name__}: {error}") from error
