"""The report as Markdown: everything but the figures."""

from __future__ import annotations

import re

from multitask.report.blocks import Cell, Report, ReportTable

SPECIAL = re.compile(r"([\\`*\[\]<>|#])")


def as_markdown(report: Report) -> str:
    blocks = [f"# {escaped(report.title)}"]
    blocks.append("\n".join(f"- {label}: {escaped(value)}" for label, value in report.facts))
    blocks += [escaped(text) for text in (report.headline, *report.notes)]
    for section in report.sections:
        if section.tables:  # the others are about figures
            blocks += [f"## {section.title}", *map(escaped, section.text), *map(table_text, section.tables)]
    return "\n\n".join(blocks) + "\n"


def table_text(table: ReportTable) -> str:
    header = [escaped(title) for title in table.header]
    for index, group in enumerate(table.groups):
        for column in range(1 + index * table.span, 1 + (index + 1) * table.span):
            header[column] = f"{escaped(group)}: {header[column]}"
    align = ["---" if column < table.words else "---:" for column in range(len(header))]
    lines = [header, align, *([_cell(cell) for cell in row] for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"{escaped(note)}\\" for note in table.notes).removesuffix("\\")
    return "\n\n".join(filter(None, [f"**{escaped(table.caption)}**", body, notes]))


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    text = f"**{text}**" if cell.strong else text
    return f"{text} {escaped(cell.note)}" if cell.note else text


def escaped(text: str) -> str:
    """The text as one line in which nothing is markup."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
