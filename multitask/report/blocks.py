"""What a report consists of, before it is a page or Markdown: plain text and numbers, nothing escaped yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    note: smaller, below the text. tone: -1 (cost) .. 1 (gain), None where colour would say nothing.
    strong, quiet: set off from the others, or standing back behind them.
    """

    text: str
    note: str = ""
    tone: float | None = None
    strong: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A captioned table; the first cell of every row is the row's header.

    header: one title a column. groups: titles above all columns but the first, each over as many as the others.
    notes: sentences below it. words: so many columns from the left hold words, the others numbers. prose: whether the
    first column holds whole texts.
    """

    caption: str
    header: list[str]
    rows: list[list[Cell]]
    groups: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    words: int = 1
    prose: bool = False

    @property
    def span(self) -> int:
        """Columns under one group's title."""
        return (len(self.header) - 1) // len(self.groups) if self.groups else 1


@dataclass(frozen=True)
class Figure:
    """Panels (SVG text, safe to put into HTML as it is) under one caption."""

    caption: str
    panels: list[str]


@dataclass(frozen=True)
class Section:
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The whole report, before it is HTML or Markdown.

    facts: label and value of the lines under the title. headline: the scores in one line. document: what of it --json
    has.
    """

    title: str
    facts: list[tuple[str, str]]
    headline: str
    notes: list[str]
    sections: list[Section]
    document: dict[str, Any] = field(default_factory=dict)
