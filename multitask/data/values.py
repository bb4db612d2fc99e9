"""A value of a file's row -> an id, a text, a label; or why it is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real

from multitask.errors import UserError, short_list, shown
from multitask.tasks.table import LabelSpec

MAX_TEXT_CHARS = 100_000
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # lone surrogates stand for bytes that are not UTF-8


class MalformedError(ValueError):
    """The reason why a row cannot be used."""


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


def _clean(text: str, column: str) -> str:
    """The text itself, where it is of sane length and content."""
    if len(text) > MAX_TEXT_CHARS:
        raise MalformedError(f"{column} has {len(text)} characters, at most {MAX_TEXT_CHARS}: {shown(text)}")
    if found := _NOT_TEXT.search(text):
        what = "a NUL byte" if found[0] == "\0" else "bytes that are not UTF-8"
        raise MalformedError(f"{column} holds {what}: {shown(text[max(0, found.start() - 10) :])}")
    return text


# A number is written in ASCII digits with a point, in every format: no separators between digits, no nan, no inf.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLEANS = {"true": 1.0, "false": 0.0}  # of any case, for labels that are 0 or 1
# Class names that say no more than the number does.
_NUMBERED = re.compile(r"(?:label_)?(\d+)", re.ASCII | re.IGNORECASE)


def number_of(value: object) -> float | None:
    """The number that a cell says, as docs/data.md has it; None for what is none."""
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def label_of(value: object, column: str, spec: LabelSpec, classes: Sequence[float | str] = ()) -> float:
    """The label that a cell says. classes: by the file's own class numbers, as `classes_of` makes them.

    Raises MalformedError.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise MalformedError(f"{column} is missing")
    if classes and (of_file := _whole(value)) is not None and not (isinstance(value, str) and value in spec.words):
        return _by_the_file(of_file, column, classes)
    if spec.words:
        return _class(value, column, spec.words)
    number = number_of(value)
    if number is None and (spec.low, spec.high) == (0, 1) and spec.kind in ("classes", "binary"):
        number = _BOOLEANS.get(str(value).strip().lower())
    if number is None:
        raise MalformedError(f"{column} is not a number: {shown(value)}")
    if not spec.low <= number <= spec.high:  # holds for nan too
        raise MalformedError(f"{column} is not in {spec.low:g}..{spec.high:g}: {shown(value)}")
    if spec.kind in ("classes", "binary") and not number.is_integer():
        raise MalformedError(f"{column} is not an integer: {shown(value)}")
    return number


def classes_of(names: Sequence[str], spec: LabelSpec, column: str) -> list[float | str]:
    """What a file's class numbers are, whose names the file says: labels; for one that is no label of the task, why.

    Empty where the names say nothing that the numbers do not. Raises UserError where none of them is a label.
    """
    if spec.kind not in ("classes", "binary") or _say_their_numbers(names):
        return []
    if not spec.words and not all(_whole(name) is not None for name in names):
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


def _by_the_file(number: int, column: str, classes: Sequence[float | str]) -> float:
    if not 0 <= number < len(classes):
        raise MalformedError(f"{column} is {number}, the file names classes 0 to {len(classes) - 1}")
    if isinstance(label := classes[number], str):
        raise MalformedError(f"{column} is class {number}, {label}")
    return label


def _class(value: object, column: str, words: Sequence[str]) -> float:
    """A class by its word; by its number too, where no word is a number itself."""
    said = str(value).strip().lower() if isinstance(value, bool) else str(value).strip()
    number = _whole(value)
    if said not in words and number is not None:
        if str(number) in words:  # 3.0 in a column with gaps is the word 3
            said = str(number)
        elif 0 <= number < len(words) and not any(_whole(word) is not None for word in words):
            return number
    if said not in words:
        raise MalformedError(f"{column} is none of {short_list(words)}: {shown(value)}")
    return words.index(said)


def _whole(value: object) -> int | None:
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() else None
