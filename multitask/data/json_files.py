"""Files of JSON objects -> Tables: an object a line, an array of them (pandas' orient="records"), or one behind the
other over several lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from multitask.data.tabular import BadRow, Row, Table, Unreadable, Wanted
from multitask.errors import shown

FoundRow = tuple[int, dict[str, Any]] | BadRow
_DECODER = json.JSONDecoder()
_BLANK = " \t\r\n"


def json_objects(file: Path, wanted: Wanted) -> Table:
    """A column that an object lacks is None; `text.en` is `en` of the object in `text`. The file is read twice: first
    for its columns."""
    form, objects = _form_of(file)
    columns: dict[str, None] = {}
    dotted = [name for name in wanted.columns if "." in name]
    rows, by_columns = 0, False
    for found in objects(file):
        if isinstance(found, BadRow):
            continue
        columns |= dict.fromkeys(found[1])
        columns |= dict.fromkeys(name for name in dotted if name not in columns and _at(found[1], name) is not None)
        rows, by_columns = rows + 1, by_columns or _is_by_columns(found[1])
    if rows == 1 and by_columns:
        raise Unreadable("an object of columns; pandas' to_json(orient='records') writes one of rows")
    return Table(list(columns), _rows(file, objects, list(columns)), form)


def _rows(file: Path, objects: Callable[[Path], Iterator[FoundRow]], columns: Sequence[str]) -> Iterator[Row | BadRow]:
    for found in objects(file):
        yield found if isinstance(found, BadRow) else (found[0], [_at(found[1], column) for column in columns])


def _at(value: dict[str, Any], name: str) -> Any:
    """The value that an object has under a name or, with dots in the name, what lies deeper, part by part."""
    if name in value or "." not in name:
        return value.get(name)
    first, rest = name.split(".", 1)
    inner = value.get(first)
    return _at(inner, rest) if isinstance(inner, dict) else None


def _is_by_columns(value: dict[str, Any]) -> bool:
    """Whether each value is an object of as many rows."""
    keys = [tuple(column) if isinstance(column, dict) else () for column in value.values()]
    return bool(keys) and bool(keys[0]) and keys.count(keys[0]) == len(keys) and "0" in keys[0]


def _form_of(file: Path) -> tuple[str, Callable[[Path], Iterator[FoundRow]]]:
    """What the file's beginning shows it to be, and what reads it."""
    lines = (text for text in text_lines(file) if text.strip())
    first = next(lines, "").strip()
    whole = _parsed(first) is not None
    if first.startswith("[") and (not whole or next(lines, None) is None):
        return "a JSON array of objects", _elements
    if first.startswith("{") and not whole and _several_lines(file):
        return "JSON objects over several lines", _stream
    return "JSON lines", _lines


def text_lines(file: Path) -> Iterator[str]:
    """Physical lines with their ends. Only a line feed ends one: U+2028 and its like are text."""
    encoding = "utf-8-sig"  # of the first line alone: elsewhere such a mark is text
    with open(file, "rb") as opened:
        for line in opened:
            yield line.decode(encoding, "surrogateescape")
            encoding = "utf-8"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _several_lines(file: Path) -> bool:
    """Whether an object that its first line does not end goes on over the next ones."""
    try:
        return isinstance(next(_stream(file), None), tuple)
    except Unreadable:
        return False


def _judged(line: int, value: Any) -> FoundRow:
    return (line, value) if isinstance(value, dict) else BadRow(line, f"not a JSON object: {shown(value)}")


def _lines(file: Path) -> Iterator[FoundRow]:
    for line, text in enumerate(text_lines(file), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            yield BadRow(line, f"not JSON: {shown(text)}")
            continue
        yield _judged(line, value)


class _Text:
    """A file's text, and how far it has been read. line: the number of the line where reading stands, from 1."""

    def __init__(self, file: Path) -> None:
        self._text = file.read_bytes().decode("utf-8-sig", "surrogateescape")
        self._at, self.line = 0, 1

    def peek(self) -> str:
        """The next sign that is no blank; "" at the end."""
        at = self._at
        while at < len(self._text) and self._text[at] in _BLANK:
            at += 1
        self._go(at)
        return self._text[at : at + 1]

    def skip(self) -> None:
        self._go(self._at + 1)

    def value(self) -> Any:
        """The value that begins here. Raises Unreadable."""
        try:
            value, end = _DECODER.raw_decode(self._text, self._at)
        except (ValueError, RecursionError) as error:
            said = shown(self._text[self._at : self._at + 100])
            raise Unreadable(f"line {self.line}: the JSON breaks off ({type(error).__name__}): {said}") from None
        self._go(end)
        return value

    def _go(self, at: int) -> None:
        self.line += self._text.count("\n", self._at, at)
        self._at = at


def _elements(file: Path) -> Iterator[FoundRow]:
    text = _Text(file)
    text.peek()
    text.skip()
    while (sign := text.peek()) != "]":
        line = text.line
        yield _judged(line, text.value())
        if (sign := text.peek()) == ",":
            text.skip()
        elif sign != "]":
            raise Unreadable(f"line {text.line}: the JSON array breaks off; expected , or ], found {sign or 'the end'}")
    text.skip()
    if text.peek():
        raise Unreadable(f"line {text.line}: text behind the JSON array's end")


def _stream(file: Path) -> Iterator[FoundRow]:
    text = _Text(file)
    while text.peek():
        line = text.line
        yield _judged(line, text.value())
