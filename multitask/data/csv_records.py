"""Records of a CSV or TSV file: where one begins and ends, strictly as RFC 4180 has it or a physical line each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from multitask.data.tabular import Unreadable

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
class CsvRecord:
    """One record of a file.

    fields: as they stand in the file, quotes and all. end: the position behind the record and its line's end.
    """

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
    def _searched(self) -> list[int]:
        return [0]  # bytes gone through in vain

    def line_end(self, start: int) -> int:
        """The position behind the physical line that begins at a position, its line's end included."""
        return self.data.find(self.newline, start) + 1 or self.size

    def line(self, start: int) -> bytes:
        """The physical line without its end."""
        return self.data[start : self.line_end(start)].rstrip(b"\r\n")

    def lines(self, start: int, end: int) -> Iterator[int]:
        """Where each physical line of a span begins."""
        while start < end:
            yield start
            start = self.line_end(start)

    def number(self, start: int) -> int:
        """The number, from 1, of the line that begins at a position."""
        return int(self.data[:start].count(self.newline)) + 1

    def split(self, start: int) -> list[bytes]:
        """The physical line's fields where quotes are text."""
        return self.line(start).split(self.delimiter)

    def record(self, start: int, quoting: Quoting) -> CsvRecord:
        """The record that begins at a position. Raises Broken."""
        whole, fields = _patterns(self.delimiter, self.newline, quoting)
        found = whole.match(self.data, start)
        if found is None:
            raise Broken(self._fault(start, quoting))
        record = found[0]
        if record.endswith(b"\r"):  # of the line's end, or text behind a bare field
            record = record.rstrip(b"\r")
        return CsvRecord(
            fields.findall(record), found.end() + len(self.newline) if found.end() < self.size else self.size
        )

    def _fault(self, start: int, quoting: Quoting) -> str:
        """Why no record begins at a position."""
        bare = _bare(self.delimiter, self.newline)
        while True:
            if self.data[start : start + 1] == b'"':
                closed = quoting.field.match(self.data, start)
                if closed is None:
                    self._lose(self.size - start)
                    return "a quote is not closed"
                start = closed.end()
                if self.data[start : start + 1] != self.delimiter:
                    return "text behind a closing quote"
            else:
                found = bare.match(self.data, start)
                assert found  # the pattern fits nothing, too
                if b'"' in found[0]:
                    return "a quote in a field that does not begin with one"
                start = found.end()
            start += 1

    def _lose(self, searched: int) -> None:
        self._searched[0] += searched
        if self._searched[0] > LOST_BYTES + 4 * self.size:
            raise Unreadable("too many quotes that are never closed")


@cache
def _bare(delimiter: bytes, newline: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"[^%b%b]*+" % (re.escape(delimiter), newline))


@cache
def _patterns(delimiter: bytes, newline: bytes, quoting: Quoting) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A whole record but for its line's end, and each of its fields."""
    mark = re.escape(delimiter)
    field = rb'(?:%b|[^"%b%b]*+)' % (quoting.field.pattern, mark, newline)
    whole = rb"%b(?:%b%b)*+\r?(?=%b|\Z)" % (field, mark, field, newline)
    return re.compile(whole, re.DOTALL), re.compile(rb"(?:\A|%b)(%b)" % (mark, field), re.DOTALL)
