"""CSV and TSV files -> Tables. Bytes that are not UTF-8 come through as lone surrogates: one bad row costs no other."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.data.csv_records import BACKSLASH, DOUBLED, MAX_RECORD_BYTES, Broken, CsvRecord, Lines, Quoting
from multitask.data.quotes import Fits, are_rows, quoting_of
from multitask.data.tabular import BadRow, Row, Table, Unreadable, Wanted
from multitask.errors import shown

SEPARATORS = {b"\t": "tabs", b",": "commas", b";": "semicolons"}
# What is said of a file with quotes, by how it quotes.
SAID: dict[Quoting | None, str] = {
    DOUBLED: "quotes enclose fields (RFC 4180)",
    BACKSLASH: "quotes enclose fields, a backslash before a quote inside one",
    None: "quotes are text",
}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def csv(file: Path, wanted: Wanted) -> Table:
    return delimited(file, wanted, "\t,;")  # CS224N's ".csv" files are separated by tabs


def documents_csv(file: Path, wanted: Wanted) -> Table:
    return delimited(file, wanted, ",\t;")


def tsv(file: Path, wanted: Wanted) -> Table:
    return delimited(file, wanted, "\t")


def delimited(file: Path, wanted: Wanted, delimiters: str) -> Table:
    """The delimiter is the one that finds most of the wanted columns in the header, or makes most columns where there
    is none."""
    data = _mapped(file)
    start = len(codecs.BOM_UTF8) if data[:3] == codecs.BOM_UTF8 else 0
    while data[start : start + 1] in (b"\r", b"\n"):  # empty lines above the header
        start += 1
    newline = b"\r" if data.find(b"\n") < 0 and data.find(b"\r") >= 0 else b"\n"
    found = [_Head.of(Lines(data, one.encode(), newline), start, wanted.header) for one in delimiters]
    if wanted.header:
        head = max(found, key=lambda head: len({*wanted.columns} & {*head.columns}))
    else:
        head = max(found, key=lambda head: len(head.columns))
    return head.table(wanted)


def _mapped(file: Path) -> Any:
    """The file's bytes, as memory-mapped."""
    with open(file, "rb") as opened:
        try:
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return b""
    if data[:2] in UTF_16:
        raise Unreadable("UTF-16 text; save it as UTF-8")
    return data


@dataclass(frozen=True)
class _Head:
    """A file's first record by one delimiter. columns: its names. start: of the first row. record: where it could be
    read."""

    lines: Lines
    columns: list[str]
    start: int
    record: CsvRecord | None = None

    @classmethod
    def of(cls, lines: Lines, start: int, header: bool) -> _Head:
        if start >= lines.size:
            return cls(lines, [], start)
        try:
            record = lines.record(start, DOUBLED)
        except Broken:
            record = None
        fields, end = (record.fields, record.end) if record else (lines.split(start), lines.line_end(start))
        if not header:
            return cls(lines, [str(number) for number in range(len(fields))], start)
        names = [_value(name, DOUBLED) for name in fields] if record else [_text(name) for name in fields]
        return cls(lines, [name.strip() for name in names], end, record)

    def table(self, wanted: Wanted) -> Table:
        fits = None
        if wanted.judge and {*wanted.columns} & {*self.columns}:
            usable = wanted.judge(self.columns)

            def fits(fields: Sequence[bytes]) -> bool:
                return len(fields) == len(self.columns) and usable([_text(field) for field in fields])

        form = f"columns between {SEPARATORS[self.lines.delimiter]}" if len(self.columns) > 1 else "one column"
        if self.lines.data.find(b'"') < 0:
            return Table(self.columns, _text_rows(self.lines, self.start, len(self.columns)), f"{form}, no quotes")
        quoting = quoting_of(self.lines, self.record, self.start, len(self.columns), fits)
        if quoting is None:
            rows = _text_rows(self.lines, self.start, len(self.columns))
        else:
            rows = _Quoted(self.lines, len(self.columns), quoting, fits).rows(self.start)
        return Table(self.columns, rows, f"{form}, {SAID[quoting]}")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _value(field: bytes, quoting: Quoting) -> str:
    return _text(quoting.value(field) if field.startswith(b'"') else field)


def _start_of(raw: bytes) -> str:
    return shown(_text(raw[:200]))


def _text_rows(lines: Lines, start: int, width: int) -> Iterator[Row | BadRow]:
    """The rows of a file in which quotes are text: each physical line is a row; empty ones are none."""
    delimiter = lines.delimiter.decode()
    for number, at in enumerate(lines.lines(start, lines.size), start=lines.number(start)):
        if raw := lines.line(at):
            yield _row(number, _text(raw).split(delimiter), width, raw)


def _row(number: int, values: Sequence[str], width: int, raw: bytes) -> Row | BadRow:
    if len(values) == width:
        return number, values
    return BadRow(number, f"{len(values)} columns where the header has {width}: {_start_of(raw)}")


@dataclass(frozen=True)
class _Quoted:
    """The rows of a file that quotes. A record that is broken costs its first line: the lines behind it may be
    sound."""

    lines: Lines
    width: int
    quoting: Quoting
    fits: Fits | None

    def rows(self, start: int) -> Iterator[Row | BadRow]:
        number, delimiter = self.lines.number(start), self.lines.delimiter.decode()
        while start < self.lines.size:
            line_end = end = self.lines.line_end(start)
            raw = self.lines.data[start:end].rstrip(b"\r\n")
            if b'"' in raw:
                row, end = self._record(number, start, line_end, raw)
                yield row
            elif raw:
                yield _row(number, _text(raw).split(delimiter), self.width, raw)
            number += 1 if end == line_end else self.lines.data[start:end].count(self.lines.newline)
            start = end

    def _record(self, number: int, start: int, line_end: int, raw: bytes) -> tuple[Row | BadRow, int]:
        """The record that begins at a position and has a quote in its first line, and where the next record begins."""
        try:
            record = self.lines.record(start, self.quoting)
        except Broken as error:
            return BadRow(number, f"unbalanced quote, {error}: {_start_of(raw)}"), line_end
        if record.end > line_end and (fault := self._fault(start, line_end, record)):
            return BadRow(number, f"{fault}: {_start_of(raw)}"), record.end
        row = _row(number, [_value(field, self.quoting) for field in record.fields], self.width, raw)
        if isinstance(row, BadRow) and self._are_rows(line_end, record.end):
            return row, line_end  # a stray quote has found another one behind sound rows
        return row, record.end

    def _fault(self, start: int, line_end: int, record: CsvRecord) -> str:
        """Why a record over several lines is not believed, or ""."""
        if record.end - start > MAX_RECORD_BYTES:
            return f"a quoted record of {record.end - start} bytes, at most {MAX_RECORD_BYTES}"
        if self._are_rows(start, record.end) or self._holds_rows(line_end, record.end):
            count = sum(1 for _ in self.lines.lines(start, record.end))
            return f"one quoted text over {count} lines or rows with stray quotes, which nothing tells"
        return ""

    def _holds_rows(self, start: int, end: int) -> bool:
        """Whether there are lines before the last one, and each is a usable row by itself, which texts hardly are."""
        inner = [*self.lines.lines(start, end)][:-1]
        return self.fits is not None and bool(inner) and all(self.fits(self.lines.split(at)) for at in inner)

    def _are_rows(self, start: int, end: int) -> bool:
        return self.fits is not None and are_rows(self.lines, start, end, self.fits)
