"""A file -> its columns and rows, read as one goes through them; one function a format, in FORMATS, by its ending.

A row without sound structure (a bad JSON line, an unbalanced quote, too few columns) becomes a BadRow
here; what its values mean is `readers.py`'s to judge. Bytes that are not UTF-8 come through as lone
surrogates, so that one bad row never costs the others.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

MAX_RECORD_LINES = 100  # physical lines a quoted record may span; more is taken for an unbalanced quote
LONG_RECORD_LINES = 5000  # the same for files whose fields are whole documents
SHOWN_CHARS = 40


class Unreadable(Exception):
    """Not a file of its format at all."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. line: where it starts, from 1 (Parquet: the row's number); reason: why."""

    line: int
    reason: str


Row = tuple[int, Sequence[object]]  # where it starts, one value a column


@dataclass(frozen=True)
class Table:
    """A file's content. columns: names in file order. rows: in file order, once; those without structure as BadRow."""

    columns: Sequence[str]
    rows: Iterator[Row | BadRow]


def shown(value: object) -> str:
    """The value as a short Python literal, safe to print on one line."""
    literal = repr(value[: SHOWN_CHARS + 1] if isinstance(value, str) else value)
    return literal if len(literal) <= SHOWN_CHARS else literal[:SHOWN_CHARS] + "..."


def _text_lines(file: Path) -> Iterator[str]:
    """Physical lines with their ends. Only a line feed ends one: U+2028 and its like are text."""
    encoding = "utf-8-sig"  # of the first line alone: elsewhere such a mark is text
    with open(file, "rb") as opened:
        for line in opened:
            yield line.decode(encoding, "surrogateescape")
            encoding = "utf-8"


class _Ahead:
    """Physical lines, as many ahead as a record may span. number: of the first of them, from 1."""

    def __init__(self, lines: Iterator[str], most: int) -> None:
        self._rest, self.lines, self.number, self._most = lines, deque[str](), 1, most
        self.drop(0)

    def drop(self, count: int) -> None:
        """Goes on behind so many lines."""
        for _ in range(count):
            self.lines.popleft()
        self.number += count
        while len(self.lines) < self._most and (line := next(self._rest, None)) is not None:
            self.lines.append(line)


def _record(lines: Sequence[str] | deque[str], delimiter: str) -> tuple[list[str], int]:
    """The record that starts with the first of the lines, and how many physical lines it takes.

    On one line quotes are read leniently, as CS224N's files need. A record over several lines must be
    strictly well formed, or a stray quote would pair with a later row's; csv.Error where it is not.
    """
    line = lines[0]
    if '"' not in line:
        return line.rstrip("\r\n").split(delimiter), 1
    reader = csv.reader((line, ""), delimiter=delimiter)
    fields = next(reader)
    if reader.line_num == 1:
        return fields, 1
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    return next(reader), reader.line_num


def _header(lines: deque[str], delimiter: str) -> tuple[list[str], int]:
    """Column names and the physical lines they take; no names where the header cannot be read."""
    try:
        names, used = _record(lines, delimiter)
    except (csv.Error, IndexError):
        return [], min(1, len(lines))
    return [name.strip() for name in names], used


def _delimited(file: Path, wanted: Collection[str], delimiters: str, most: int = MAX_RECORD_LINES) -> Table:
    """The delimiter is the one that finds most of the wanted columns in the header. most: lines of a record."""
    ahead = _Ahead(_text_lines(file), most)
    delimiter = max(delimiters, key=lambda d: len(set(wanted) & set(_header(ahead.lines, d)[0])))
    columns, used = _header(ahead.lines, delimiter)
    ahead.drop(used)
    return Table(columns, _delimited_rows(ahead, len(columns), delimiter))


def _delimited_rows(ahead: _Ahead, width: int, delimiter: str) -> Iterator[Row | BadRow]:
    while ahead.lines:
        text, used = ahead.lines[0], 1  # where a record is wrong, the lines it took may be sound rows of their own
        if text.strip("\r\n"):
            try:
                fields, taken = _record(ahead.lines, delimiter)
            except csv.Error as error:
                yield BadRow(ahead.number, f"unbalanced quote or broken field ({error}): {shown(text)}")
            else:
                if len(fields) == width:
                    yield ahead.number, fields
                    used = taken
                else:
                    count = f"{len(fields)} columns where the header has {width}"
                    yield BadRow(ahead.number, f"{count}: {shown(text)}")
        ahead.drop(used)


def _csv(file: Path, wanted: Collection[str]) -> Table:
    return _delimited(file, wanted, "\t,;")  # CS224N's ".csv" files are separated by tabs


def _tsv(file: Path, wanted: Collection[str]) -> Table:
    return _delimited(file, wanted, "\t")


def _jsonl(file: Path, wanted: Collection[str]) -> Table:
    """One JSON object a line; a column that an object lacks is None. Read twice: first for the columns."""
    columns: dict[str, None] = {}
    for found in _objects(_text_lines(file)):
        if not isinstance(found, BadRow):
            columns |= dict.fromkeys(found[1])
    return Table(list(columns), _jsonl_rows(file, list(columns)))


def _jsonl_rows(file: Path, columns: Sequence[str]) -> Iterator[Row | BadRow]:
    for found in _objects(_text_lines(file)):
        yield found if isinstance(found, BadRow) else (found[0], [found[1].get(column) for column in columns])


def _objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            yield BadRow(line, f"not JSON: {shown(text)}")
            continue
        yield (line, value) if isinstance(value, dict) else BadRow(line, f"not a JSON object: {shown(value)}")


def _parquet(file: Path, wanted: Collection[str]) -> Table:
    """Reads the wanted columns alone; the file's other columns are named but empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        names = list(opened.schema_arrow.names)
        found = [name for name in names if name in wanted]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(error) from error
    return Table(found or names, _parquet_rows(opened, found))


def _parquet_rows(opened: Any, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow as pa

    def values(column: pa.Array) -> list[object]:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return list(column.to_pylist())
        # As strings, one that is not UTF-8 would fail the whole column.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in raw]

    line = 0
    try:
        for batch in opened.iter_batches(columns=list(columns)) if columns else ():
            for row in zip(*(values(column) for column in batch.columns), strict=True):
                line += 1
                yield line, row
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Unreadable:
    return Unreadable(f"not a readable Parquet file ({str(error).splitlines()[0][:200]})")


FORMATS: dict[str, Callable[[Path, Collection[str]], Table]] = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _txt(file: Path, wanted: Collection[str]) -> Table:
    """A text a line, in a column `text`."""
    lines = ((number, line.rstrip("\r\n")) for number, line in enumerate(_text_lines(file), start=1))
    return Table(["text"], ((number, [text]) for number, text in lines if text))


# For files of documents, such as postings: the same, but for how far a quoted field may go.
DOCUMENT_FORMATS = FORMATS | {
    "csv": partial(_delimited, delimiters=",\t;", most=LONG_RECORD_LINES),
    "tsv": partial(_delimited, delimiters="\t", most=LONG_RECORD_LINES),
}

# For any table of texts.
TEXT_FORMATS = DOCUMENT_FORMATS | {"txt": _txt}
