"""What the user sees: one live line a stage on a terminal, plain lines elsewhere, and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from lightning_modules.progress import Progress

PLAIN_SECONDS = 15.0


class Screen:
    """Progress lines: live on a terminal; elsewhere a line every 15 s, and one whenever something else begins."""

    def __init__(self, console: Console | None = None) -> None:
        # A file or a pipe has no width to fit.
        self.console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 200)
        self._live: Live | None = None
        self._told: dict[str, tuple[float, str]] = {}  # stage -> when, and doing what: a sweep's trials take turns
        self._last: Progress | None = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def progress(self, progress: Progress) -> None:
        if progress == self._last:
            return
        self._last = progress
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, refresh_per_second=4)
                self._live.start()
            self._live.update(Text(progress.line()))
            return
        doing, finished = f"{progress.doing} {progress.epoch}", progress.done == progress.total
        told, before = self._told.get(progress.stage, (0.0, ""))
        if finished or doing != before or time.monotonic() - told >= PLAIN_SECONDS:
            self._told[progress.stage] = (time.monotonic(), doing)
            self.say(progress.line())

    def end_line(self) -> None:
        """The live line stays as it last was; what follows goes below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
        table = Table(title=title, title_justify="left")
        for index, name in enumerate(header):
            table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
