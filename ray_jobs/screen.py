"""What the user sees: one live line a stage on a terminal, plain lines elsewhere, tables; or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from multitask.errors import printable

if TYPE_CHECKING:
    from lightning_modules.progress import Progress

PLAIN_SECONDS = 15.0
LONG_SECONDS = 10.0  # what takes less needs no word of its time
FILE_COLUMNS = 200  # a file or a pipe has no width to fit


class Screen:
    """The screen of a command, as a context manager around it.

    Progress is a live line on a terminal; elsewhere a line every 15 s, and one whenever something else begins. What
    took long ends with its time.

    quiet: no progress and no notes, only what came of the command. as_json: standard output is one document and nothing
    else, whoever prints, Ray and the libraries too; all that people read goes to stderr. timed: whether a long command
    ends with its time, which nobody asks of a service.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, as_json: bool = False, timed: bool = True
    ) -> None:
        self.quiet, self.as_json, self.timed = quiet, as_json, timed
        self._stdout: TextIO = sys.stdout
        file = sys.stderr if as_json else sys.stdout
        self.console = console or Console(highlight=False, file=file, width=None if file.isatty() else FILE_COLUMNS)
        # Not `is_terminal`, which FORCE_COLOR also sets: colours are for logs as well, moving the cursor is not.
        in_place = self.console.is_jupyter and find_spec("ipywidgets")  # without, rich shows nothing there
        self._moves = bool(in_place) or (self.console.file.isatty() and not self.console.is_dumb_terminal)
        self._redirected = redirect_stdout(sys.stderr)
        self._live: Live | None = None
        self._told: dict[str, tuple[float, str]] = {}  # stage -> when, and doing what: a sweep's trials take turns
        self._last: Progress | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Screen:
        if self.as_json:
            self._redirected.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_line()
        if self.timed and kind is None and (seconds := time.monotonic() - self._began) >= LONG_SECONDS:
            from lightning_modules.progress import clock

            self.note(f"took {clock(seconds)}")
        if self.as_json:
            self._redirected.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Says what came of the command, or keeps it from going on."""
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Says what the command is doing; nothing where it is to be quiet."""
        if not self.quiet:
            self.say(text)

    def progress(self, progress: Progress) -> None:
        if self.quiet or progress == self._last:
            return
        self._last = progress
        if self._moves:
            if self._live is None:
                self._live = Live(console=self.console, refresh_per_second=4)
                self._live.start()
            self._live.update(Text(printable(progress.line())))
            return
        doing, finished = f"{progress.doing} {progress.epoch}", progress.done == progress.total
        told, before = self._told.get(progress.stage, (0.0, ""))
        if finished or doing != before or time.monotonic() - told >= PLAIN_SECONDS:
            self._told[progress.stage] = (time.monotonic(), doing)
            self.say(progress.line())

    def end_line(self) -> None:
        """Leaves the live line as it last was; what follows goes below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
        """Shows rows as a table; turned, columns for rows, where words would be broken to fit; cell below cell where
        they still would be."""
        rows = [[printable(cell) for cell in row] for row in rows]
        lines = [header, *rows]
        for columns in (list(zip(*lines, strict=True)), lines):  # a row as a column is the table turned
            if _width(columns) <= self.console.width:
                self.console.print(_table(columns, title))
                return
        self._stack(header, lines[1:], title)

    def _stack(self, header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
        if title:
            self.say(title)
        for first, *others in rows:
            self.say(first)
            for name, cell in zip(header[1:], others, strict=True):
                if cell:
                    self.say(f"  {name}: {cell}")

    def document(self, content: Any) -> None:
        """Writes the one document of --json to standard output."""
        print(json.dumps(content, indent=2, allow_nan=False), file=self._stdout)


def _width(columns: Sequence[Sequence[str]]) -> int:
    """The characters that a table needs at least, with words whole."""
    return 1 + sum(3 + max(cell_len(word) for cell in column for word in cell.split() or [""]) for column in columns)


def _table(columns: Sequence[Sequence[str]], title: str | None) -> Table:
    """A table of columns that begin with their headers. Figures are flush right, words left."""
    table = Table(title=Text(title) if title else None, title_justify="left")
    for name, *cells in columns:
        words = any(cell[:1].isalpha() for cell in cells)
        whole = not any(" " in cell for cell in (name, *cells))  # rich would narrow it first, as the widest
        table.add_column(Text(name), justify="left" if words else "right", overflow="fold", no_wrap=whole)
    for row in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, row))  # as they are: brackets are not rich's markup
    return table
