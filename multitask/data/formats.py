"""Bytes of a file -> its columns and rows; one function a format, in FORMATS by the file's ending.

A row without sound structure (a bad JSON line, an unbalanced quote, too few columns) becomes a BadRow
here; what its values mean is `readers.py`'s to judge. Bytes that are not UTF-8 come through as lone
surrogates, so that one bad row never costs the others.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from multitask.errors import UserError

MAX_RECORD_LINES = 100  # physical lines a quoted record may span; more is taken for an unbalanced quote
SHOWN_CHARS = 40


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. line: where it starts, from 1 (Parquet: the row's number); reason: why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Table:
    """A file's content.

    columns: names in file order. rows: (line, one value a column). bad: rows without structure.
    """

    columns: Sequence[str]
    rows: list[tuple[int, Sequence[object]]]
    bad: list[BadRow]


def shown(value: object) -> str:
    """The value as a short Python literal, safe to print on one line."""
    literal = repr(value[: SHOWN_CHARS + 1] if isinstance(value, str) else value)
    return literal if len(literal) <= SHOWN_CHARS else literal[:SHOWN_CHARS] + "..."


def _text_lines(data: bytes) -> list[str]:
    """Physical lines with their ends. Only a line feed ends one: U+2028 and its like are text."""
    return list(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline="\n"))


def _record(lines: list[str], start: int, delimiter: str) -> tuple[list[str], int]:
    """The record that starts at lines[start], and how many physical lines it takes.

    On one line quotes are read leniently, as CS224N's files need. A record over several lines must be
    strictly well formed, or a stray quote would pair with a later row's; csv.Error where it is not.
    """
    line = lines[start]
    if '"' not in line:
        return line.rstrip("\r\n").split(delimiter), 1
    reader = csv.reader((line, ""), delimiter=delimiter)
    fields = next(reader)
    if reader.line_num == 1:
        return fields, 1
    reader = csv.reader(lines[start : start + MAX_RECORD_LINES], delimiter=delimiter, strict=True)
    return next(reader), reader.line_num


def _header(lines: list[str], delimiter: str) -> tuple[list[str], int]:
    """Column names and the physical lines they take; no names where the header cannot be read."""
    try:
        names, used = _record(lines, 0, delimiter)
    except (csv.Error, IndexError):
        return [], 1
    return [name.strip() for name in names], used


def _delimited(data: bytes, wanted: Collection[str], delimiters: str) -> Table:
    """The delimiter is the one that finds most of the wanted columns in the header."""
    lines = _text_lines(data)
    delimiter = max(delimiters, key=lambda d: len(set(wanted) & set(_header(lines, d)[0])))
    columns, at = _header(lines, delimiter)
    table = Table(columns, [], [])
    while at < len(lines):
        text, line = lines[at], at + 1
        at += 1  # where a record is wrong, the lines it took may be sound rows of their own
        if not text.strip("\r\n"):
            continue
        try:
            fields, used = _record(lines, line - 1, delimiter)
        except csv.Error as error:
            table.bad.append(BadRow(line, f"unbalanced quote or broken field ({error}): {shown(text)}"))
            continue
        if len(fields) == len(columns):
            table.rows.append((line, fields))
            at += used - 1
        else:
            count = f"{len(fields)} columns where the header has {len(columns)}"
            table.bad.append(BadRow(line, f"{count}: {shown(text)}"))
    return table


def _csv(data: bytes, wanted: Collection[str]) -> Table:
    return _delimited(data, wanted, "\t,;")  # CS224N's ".csv" files are separated by tabs


def _tsv(data: bytes, wanted: Collection[str]) -> Table:
    return _delimited(data, wanted, "\t")


def _jsonl(data: bytes, wanted: Collection[str]) -> Table:
    """One JSON object a line; a column that an object lacks is None."""
    objects: list[tuple[int, dict[str, Any]]] = []
    bad: list[BadRow] = []
    for line, text in enumerate(_text_lines(data), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            bad.append(BadRow(line, f"not JSON: {shown(text)}"))
            continue
        if isinstance(value, dict):
            objects.append((line, value))
        else:
            bad.append(BadRow(line, f"not a JSON object: {shown(value)}"))
    columns = list(dict.fromkeys(key for _, value in objects for key in value))
    return Table(columns, [(line, [value.get(c) for c in columns]) for line, value in objects], bad)


def _parquet(data: bytes, wanted: Collection[str]) -> Table:
    """Reads the wanted columns alone; the file's other columns are named but empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def values(column: pa.ChunkedArray) -> list[object]:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return list(column.to_pylist())
        # As strings, one that is not UTF-8 would fail the whole column.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if v is None else v.decode("utf-8", "surrogateescape") for v in raw]

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = list(file.schema_arrow.names)
        read = file.read(columns=[name for name in names if name in wanted])
        columns = {name: values(read.column(name)) for name in read.column_names}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"not a readable Parquet file ({str(error).splitlines()[0][:200]})") from error
    rows = zip(*(columns[name] for name in columns), strict=True)
    return Table(list(columns) or names, list(enumerate(rows, start=1)), [])


FORMATS: dict[str, Callable[[bytes, Collection[str]], Table]] = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
