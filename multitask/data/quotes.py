"""Whether a CSV or TSV file quotes (RFC 4180) or quotes are text in it (GLUE): one decision, from the whole file.

Every line with a quote is a witness. It speaks for quoting where only quoting explains it (doubled quotes, a delimiter
or a line feed between quotes), and for text where quoting can't explain it and the line has all its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from multitask.data.csv_records import BACKSLASH, DOUBLED, Broken, CsvRecord, Lines, Quoting

Fits = Callable[[Sequence[bytes]], bool]  # whether fields as they stand in a line are those of a usable row

TAB = b"\t"
FEW = 2  # stray quotes in a CSV that may be damage rather than its way of writing


@dataclass
class Witnesses:
    """Numbers of lines. quoting: those that only RFC 4180 explains; backslash: those that only backslashes before
    quotes explain; text: those that only text explains; broken: those that nothing explains; plain: a whole field in
    quotes that needed none. open: records over several lines each of which has all its columns: (start, end).
    """

    quoting: int = 0
    backslash: int = 0
    text: int = 0
    broken: int = 0
    plain: int = 0
    open: list[tuple[int, int]] = field(default_factory=list)

    @property
    def any(self) -> bool:
        return bool(self.quoting or self.backslash or self.text or self.broken or self.plain or self.open)


def quoting_of(lines: Lines, header: CsvRecord | None, start: int, width: int, fits: Fits | None) -> Quoting | None:
    """How the file quotes; None where quotes are text.

    header: the columns' record, where it could be read. start: of the first row. width: of a row. fits: for a record
    that may as well be several rows of their own.
    """
    found = witnesses(lines, start, width)
    if header and any(name.startswith(b'"') for name in header.fields):
        found.quoting += 1
    if found.backslash > found.quoting:
        return BACKSLASH
    if lines.delimiter == TAB:
        return None if _tabs_say_text(lines, found, fits) else DOUBLED
    strays = found.text > max(found.plain, FEW - 1) and not (found.quoting or found.broken or found.open)
    return None if strays else DOUBLED


def _tabs_say_text(lines: Lines, found: Witnesses, fits: Fits | None) -> bool:
    """Whether a tab-separated file's quotes are text. Text hardly ever holds tabs: where all lines are whole between
    their tabs, quotes are text unless more lines say that they enclose. A line that is not whole is a part of a quoted
    text, more likely than not."""
    if found.quoting or found.text:
        return found.text > found.quoting + found.broken
    if found.open:
        return fits is None or all(are_rows(lines, start, end, fits) for start, end in found.open)
    return found.plain > 0


def are_rows(lines: Lines, start: int, end: int, fits: Fits) -> bool:
    """Whether each physical line of a span is a usable row, its quotes taken for text."""
    return all(fits(lines.split(at)) for at in lines.lines(start, end))


def witnesses(lines: Lines, start: int, width: int) -> Witnesses:
    found = Witnesses()
    while (quote := lines.data.find(b'"', start)) != -1:
        at = lines.data.rfind(lines.newline, start, quote) + 1 or start
        start = _hear(lines, at, width, found)
    return found


def _hear(lines: Lines, at: int, width: int, found: Witnesses) -> int:
    """Counts, as a witness, the line or the record over several lines that begins at a position; returns where
    it ends."""
    line_end, whole = lines.line_end(at), len(lines.split(at)) == width
    record = sound(lines, at, width, DOUBLED)
    if record is None:
        if escaped := b'\\"' in lines.line(at) and sound(lines, at, width, BACKSLASH):
            found.backslash += 1
            return escaped.end
        found.text += whole
        found.broken += not whole
        return line_end
    if record.end <= line_end:
        needed = not whole or any(_needs_quotes(field) for field in record.fields)
        found.quoting += needed
        found.plain += not needed
    elif width > 1 and all(len(lines.split(line)) == width for line in lines.lines(at, record.end)):
        found.open.append((at, record.end))
    else:
        found.quoting += 1
    return record.end


def sound(lines: Lines, at: int, width: int, quoting: Quoting) -> CsvRecord | None:
    """The record that begins at a position, where it is well formed and has so many fields; else None."""
    try:
        record = lines.record(at, quoting)
    except Broken:
        return None
    return record if len(record.fields) == width else None


def _needs_quotes(field: bytes) -> bool:
    """Whether a field on one line would be another without its quotes."""
    return field.startswith(b'"') and (b'"' in field[1:-1] or b"\r" in field or field == b'""')
