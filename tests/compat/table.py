"""docs/compat.md: what people have, and what is done with it. Every row is run by tests/compat/test_rows.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compat.md"
HEAD = """\
# What people have, and what is done with it

Files, models, tokenizers and surroundings that others' tools make. *read*: it works, and nothing is said.
*noted*: it works, and a line says what was left out or assumed. *refused*: one line, exit status 2, nothing
written. Dots stand for what differs from case to case. Every row is a test (tests/compat), which writes this page:
`python -m tests.compat`.
"""


@dataclass(frozen=True)
class Row:
    """One thing that people have.

    have: what it is, in words. done: what becomes of it. line: what is said of it, dots for what differs; "" where it
    is read. run: makes it in the empty working directory that it is given, uses it, and asserts what came of it; it
    lets the UserError of what is refused pass.
    """

    have: str
    done: Literal["read", "noted", "refused"]
    run: Callable[[Path], None]
    line: str = ""

    def says(self, said: str) -> bool:
        """Whether that is what the row's line stands for: one line at most, and none where it is read."""
        if not self.line:
            return not said
        return re.search(".*".join(map(re.escape, self.line.split("..."))), said) is not None


def render(sections: Mapping[str, Sequence[Row]]) -> str:
    """The page as Markdown."""
    lines = [HEAD]
    for title, rows in sections.items():
        lines += [f"## {title}\n", "| what | is | says |", "| --- | --- | --- |"]
        lines += [f"| {_cell(row.have)} | {row.done} | {f'`{_cell(row.line)}`' if row.line else ''} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
