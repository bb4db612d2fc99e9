"""The report's closer look at the final stages' dev sets: confusion, calibration, the worst rows."""

from __future__ import annotations

from typing import Any

from multitask.report.blocks import Cell, Figure, ReportTable, Section
from multitask.report.reading import Evidence
from multitask.report.svg import GRID, INK, MUTED, SERIES, drawing

HEIGHT = 2.3  # inches
TEXT_SHOWN = 160  # letters of a row's texts


def looks_section(evidence: Evidence) -> Section | None:
    """A table or two and a figure for each task that each final stage can answer, of its first seed."""
    shown = [(name, task, look) for name, runs in evidence.final().items() for task, look in runs[0].looks.items()]
    if not shown:
        return None
    tables = [table for one in shown for table in (_confusion(*one), _worst(*one)) if table]
    figures = [figure for one in shown if (figure := _calibration(*one))]
    text = "What a stage's last weights make of dev: what each class is taken for, whether answers are right as often "
    text += "as they are sure (figures, in report.html), and the rows that are most wrong. A task that no stage has "
    text += "trained is left out."
    return Section("Dev, closely", [text], tables, figures)


def _confusion(name: str, task: str, look: dict[str, Any]) -> ReportTable | None:
    counts, names = look["confusion"], look["names"]
    if not counts:
        return None
    rows = []
    for at, row in enumerate(counts):
        total = sum(row) or 1
        cells = [Cell(f"{n}", f"{n / total:.0%}", strong=to == at, quiet=not n) for to, n in enumerate(row)]
        rows.append([Cell(names[at]), *cells])
    return ReportTable(f"{name}, {task}: what each class is taken for", ["is", *names], rows)


def _worst(name: str, task: str, look: dict[str, Any]) -> ReportTable | None:
    if not look["worst"]:
        return None
    names = look["names"]

    def said(value: float) -> str:
        return names[int(value)] if names else f"{value:.2f}"

    rows = [
        [
            Cell(" / ".join(_short(text) for text in row["texts"])),
            Cell(said(row["label"])),
            Cell(said(row["predicted"])),
            Cell(f"{row['sure']:.2f}"),
        ]
        for row in look["worst"]
    ]
    last = "sure" if names else "off by"
    note = "The texts are as the tokenizer gives them back."
    return ReportTable(f"{name}, {task}: most wrong", ["text", "is", "said", last], rows, notes=[note], words=3)


def _short(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]} ..."


def _calibration(name: str, task: str, look: dict[str, Any]) -> Figure | None:
    bins = look["calibration"]
    if not bins:
        return None
    most = max(count for _, _, count in bins)
    title = f"How often answers of {task} are right, by how sure they are, after the stage {name}"
    with drawing(f"sure-{name}-{task}", title, HEIGHT) as panel:
        panel.axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.0)
        panel.axes.plot([sure for sure, _, _ in bins], [right for _, right, _ in bins], color=SERIES[0])
        for sure, right, count in bins:
            panel.axes.plot([sure], [right], color=SERIES[0], marker="o", markersize=3 + 6 * (count / most) ** 0.5)
            panel.axes.annotate(
                f"{count}", (sure, right), color=MUTED, fontsize=6.5, textcoords="offset points", xytext=(5, -9)
            )
        panel.axes.set(title=f"{task}: right, by how sure", xlabel="sure", xlim=(0, 1.04), ylim=(0, 1.04))
        panel.axes.grid(axis="y")
        panel.axes.title.set_color(INK)
    return Figure(f"{name}, {task}: answers in ten bins of how sure they are, with their numbers", [panel.text])
