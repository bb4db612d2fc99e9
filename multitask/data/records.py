"""Records of a CSV or TSV file: where one begins and ends, strictly as RFC 4180 has it or a physical line each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from multitask.data.table import Unreadable

MAX_RECORD_BYTES = 2**24  # of a record with quotes
LOST_BYTES = 2**28  # that may be searched in vain for closing quotes, beyond some times the file's own


@dataclass(frozen=True)
class Quoting:
    """How a quote stands inside a quoted field. field: the whole field with its quotes. inner: one quote in there.

    The pattern takes what it has taken for good, so that a field of any length costs one pass over it.
    """

    field: re.Pattern[bytes]
    inner: bytes

    def value(self, field: bytes) -> bytes:
        """The field's value."""
        if self.inner == b'""':
            return field[1:-1].replace(b'""', b'"')
        return re.sub(rb"\\(.)", rb"\1", field[1:-1], flags=re.DOTALL)


DOUBLED = Quoting(re.compile(rb'"(?:[^"]++|"")*+"'), b'""')  # RFC 4180
BACKSLASH = Quoting(re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL), b'\\"')  # MySQL's and R's way


class Broken(Exception):
    """A record that is not well formed; says why."""


@dataclass(frozen=True)
class Record:
    """fields: as they stand in the file, quotes and all. end: the position behind the record and its line's end."""

    fields: list[bytes]
    end: int


@dataclass(frozen=True)
class Lines:
    """The bytes of a CSV or TSV file, `size` of them. delimiter, newline: a byte each."""

    data: bytes
    delimiter: bytes
    newline: bytes = b"\n"

    @property
    def size(self) -> int:
        return len(self.data)

    @cached_property
    def _bare(self) -> re.Pattern[bytes]:
        return re.compile(rb"[^%b%b]*+" % (re.escape(self.delimiter), self.newline))

    @cached_property
    def _searched(self) -> list[int]:
        return [0]  # bytes gone through in vain

    def line_end(self, start: int) -> int:
        """The position behind the physical line, its end included."""
        return self.data.find(self.newline, start) + 1 or self.size

    def line(self, start: int) -> bytes:
        """The physical line without its end."""
        return self.data[start : self.line_end(start)].rstrip(b"\r\n")

    def lines(self, start: int, end: int) -> Iterator[int]:
        """Where each physical line in there begins."""
        while start < end:
            yield start
            start = self.line_end(start)

    def number(self, start: int) -> int:
        """The number of the line that begins there, from 1."""
        return int(self.data[:start].count(self.newline)) + 1

    def split(self, start: int) -> list[bytes]:
        """The physical line's fields where quotes are text."""
        return self.line(start).split(self.delimiter)

    def record(self, start: int, quoting: Quoting) -> Record:
        """The record that begins there. Raises Broken."""
        fields, at = [], start
        while True:
            field, at = self._field(at, quoting)
            fields.append(field)
            if self.data[at : at + 1] != self.delimiter:
                return Record(fields, at + len(self._line_mark(at)))
            at += 1

    def _field(self, start: int, quoting: Quoting) -> tuple[bytes, int]:
        if self.data[start : start + 1] != b'"':
            found = self._bare.match(self.data, start)
            assert found  # the pattern fits nothing, too
            if b'"' in found[0]:
                raise Broken("a quote in a field that does not begin with one")
            last = self.data[found.end() : found.end() + 1] != self.delimiter
            return found[0].rstrip(b"\r") if last else found[0], found.end()
        closed = quoting.field.match(self.data, start)
        if closed is None:
            self._lose(self.size - start)
            raise Broken("a quote is not closed")
        end = closed.end()
        if end < self.size and self.data[end : end + 1] != self.delimiter and not self._line_mark(end):
            raise Broken("text behind a closing quote")
        return closed[0], end

    def _line_mark(self, at: int) -> bytes:
        """The line's end that stands there, or nothing."""
        found = self.data[at : at + 2]
        if found.startswith(self.newline):
            return self.newline
        return found if found in (b"\r\n", b"\r") else b""  # a file may end in the latter

    def _lose(self, searched: int) -> None:
        self._searched[0] += searched
        if self._searched[0] > LOST_BYTES + 4 * self.size:
            raise Unreadable("too many quotes that are never closed")
