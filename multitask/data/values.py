"""A value of a file's row -> an id, a text; or why it is none. What a label says lies in tasks/cells.py."""

from __future__ import annotations

import re
from collections.abc import Sequence

from multitask.errors import UserError, short_list, shown
from multitask.tasks.cells import MalformedError, number_of, whole_of
from multitask.tasks.labels import KINDS, LabelSpec

MAX_TEXT_CHARS = 100_000
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # lone surrogates stand for bytes that are not UTF-8


def id_of(value: object, otherwise: str) -> str:
    text = "" if value is None else str(value).strip()
    return _clean(text, "id") if text else otherwise


def text_of(value: object, column: str) -> str:
    if value is None or value == "":
        raise MalformedError(f"{column} is empty")
    if not isinstance(value, str):
        raise MalformedError(f"{column} is not text: {shown(value)}")
    if not value.strip():
        raise MalformedError(f"{column} is empty but for white space: {shown(value)}")
    return _clean(value, column)


def weight_of(value: object, column: str) -> float:
    """What a row counts for: a number from 0 on."""
    found = number_of(value)
    if found is None or not 0 <= found < float("inf"):
        raise MalformedError(f"{column}: weight {shown(value)} is no number from 0 on")
    return found


def _clean(text: str, column: str) -> str:
    """A text as it stands. Raises MalformedError where its length or content is not sane."""
    if len(text) > MAX_TEXT_CHARS:
        raise MalformedError(f"{column} has {len(text)} characters, at most {MAX_TEXT_CHARS}: {shown(text)}")
    if found := _NOT_TEXT.search(text):
        what = "a NUL byte" if found[0] == "\0" else "bytes that are not UTF-8"
        raise MalformedError(f"{column} holds {what}: {shown(text[max(0, found.start() - 10) :])}")
    return text


# Class names that say no more than the number does.
_NUMBERED = re.compile(r"(?:label_)?(\d+)", re.ASCII | re.IGNORECASE)


def classes_of(names: Sequence[str], spec: LabelSpec, column: str) -> list[float | str]:
    """The label of each of a file's class numbers, where the file names its classes; for a number that is no label of
    the task, the reason.

    Empty where the names say nothing that the numbers do not. Raises UserError where none of them is a label.
    """
    if KINDS[spec.kind].words is None or _say_their_numbers(names):
        return []
    if not spec.words and not all(whole_of(name) is not None for name in names):
        return []
    known = spec.words or [str(number) for number in range(int(spec.low), int(spec.high) + 1)]
    at = {word: float(place) + (0 if spec.words else spec.low) for place, word in enumerate(known)}
    found = [at.get(name.strip(), f"'{name}', none of {short_list(known)}") for name in names]
    if all(isinstance(label, str) for label in found):
        raise UserError(f"{column}: the file calls its classes {short_list(names)}, the task {short_list(known)}")
    return found


def _say_their_numbers(names: Sequence[str]) -> bool:
    found = [_NUMBERED.fullmatch(name.strip()) for name in names]
    return all(match and int(match[1]) == number for number, match in enumerate(found))
