"""A value of a file's row -> an id, a text, a label; or why it is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from multitask.data.files import short_list
from multitask.data.formats import shown
from multitask.tasks import LabelSpec

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


def label_of(value: object, column: str, spec: LabelSpec) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise MalformedError(f"{column} is missing")
    if spec.words:
        return _class(value, column, spec.words)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise MalformedError(f"{column} is not a number: {shown(value)}") from None
    if not spec.low <= number <= spec.high:  # holds for nan too
        raise MalformedError(f"{column} is not in {spec.low:g}..{spec.high:g}: {shown(value)}")
    if spec.kind in ("classes", "binary") and not number.is_integer():
        raise MalformedError(f"{column} is not an integer: {shown(value)}")
    return number


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
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() else None
