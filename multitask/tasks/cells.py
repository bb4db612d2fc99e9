"""A cell of a data file -> the label that it says, or why it says none.

A number is written in ASCII digits with a point, in every format: no separators between digits, no nan, no inf.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING

from multitask.errors import short_list, shown

if TYPE_CHECKING:
    from multitask.tasks.labels import LabelSpec

# A file's own class numbers, in their order: the label that each is, or why it is none; empty where a file says none.
Classes = Sequence[float | str]
LabelValue = float | tuple[float, ...]  # an example's label: a number, or one for each of its classes

SEPARATOR = "|"  # between the classes of a text that says several
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BOOLEANS = {"true": 1.0, "false": 0.0}  # of any case, for labels that are 0 or 1


class MalformedError(ValueError):
    """The reason why a row cannot be used."""


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


def whole_of(value: object) -> int | None:
    """The whole number that a cell says; None for what is none."""
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() else None


def read_class(value: object, column: str, label: LabelSpec, classes: Classes) -> float:
    """A class: by the file's own number where it names its classes, else by the task's word or number."""
    _check_there(value, column)
    if classes and (number := whole_of(value)) is not None and not (isinstance(value, str) and value in label.words):
        return _by_the_file(number, column, classes)
    if label.words:
        return _by_word(value, column, label.words)
    said = number_of(value)
    if said is None and (label.low, label.high) == (0, 1):
        said = _BOOLEANS.get(str(value).strip().lower())
    found = _within(said, value, column, label)
    if not found.is_integer():
        raise MalformedError(f"{column} is not an integer: {shown(value)}")
    return found


def read_number(value: object, column: str, label: LabelSpec, classes: Classes) -> float:
    """A number on the label's scale."""
    _check_there(value, column)
    return _within(number_of(value), value, column, label)


def read_several(value: object, column: str, label: LabelSpec, classes: Classes) -> tuple[float, ...]:
    """1 or 0 for each class, whether it is there: classes of a list, of a text that is a JSON list, or of another text,
    with SEPARATOR between them. An empty list or text has none."""
    parts = _parts(value, column)
    try:
        found = [read_class(part, column, label, classes) for part in parts]
    except MalformedError as error:
        is_one = parts == [value] and re.search("[,;]", str(value))
        advice = f"; several have {SEPARATOR} between them" if is_one else ""
        raise MalformedError(f"{error}{advice}") from None
    there = {*found}
    if len(there) < len(found):
        raise MalformedError(
            f"{column} has a class twice: {shown(value)}; valid: the classes that are there, each once"
        )
    return tuple(float(at in there) for at in range(label.outputs))


def _parts(value: object, column: str) -> Sequence[object]:
    if value is None:
        raise MalformedError(f"{column} is missing")
    parts = value
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            parts = json.loads(value)
        except (ValueError, RecursionError):
            raise MalformedError(f"{column} is no JSON list: {shown(value)}") from None
    elif isinstance(value, str):
        parts = value.split(SEPARATOR) if value.strip() else []
    found = parts if isinstance(parts, list) else [parts]
    if any(part is None or (isinstance(part, str) and not part.strip()) for part in found):
        raise MalformedError(f"{column} has a class without a name: {shown(value)}")
    return found


def joined(words: Sequence[str]) -> str:
    """A text that `read_several` takes for these classes: a list where one's name would not come back otherwise."""
    if any(SEPARATOR in word or word.startswith("[") for word in words):
        return json.dumps(words, ensure_ascii=False)
    return SEPARATOR.join(words)


def _check_there(value: object, column: str) -> None:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise MalformedError(f"{column} is missing")


def _within(number: float | None, value: object, column: str, label: LabelSpec) -> float:
    if number is None:
        raise MalformedError(f"{column} is not a number: {shown(value)}")
    if not label.low <= number <= label.high:  # holds for nan too
        raise MalformedError(f"{column} is not in {label.low:g}..{label.high:g}: {shown(value)}")
    return number


def _by_the_file(number: int, column: str, classes: Classes) -> float:
    if not 0 <= number < len(classes):
        raise MalformedError(f"{column} is {number}, the file names classes 0 to {len(classes) - 1}")
    if isinstance(label := classes[number], str):
        raise MalformedError(f"{column} is class {number}, {label}")
    return label


def _by_word(value: object, column: str, words: Sequence[str]) -> float:
    """A class by its word; by its number too, where no word is a number itself."""
    said = str(value).strip().lower() if isinstance(value, bool) else str(value).strip()
    number = whole_of(value)
    if said not in words and number is not None:
        if str(number) in words:  # 3.0 in a column with gaps is the word 3
            said = str(number)
        elif 0 <= number < len(words) and not any(whole_of(word) is not None for word in words):
            return number
    if said not in words:
        raise MalformedError(f"{column} is none of {short_list(words)}: {shown(value)}")
    return words.index(said)
