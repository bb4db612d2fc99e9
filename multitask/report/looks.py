"""The report's closer look at the final stages' dev sets: confusion, calibration, the worst rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multitask.report.blocks import Cell, Figure, ReportTable, Section
from multitask.report.reading import Evidence
from multitask.report.svg import GRID, INK, MUTED, SERIES, drawing

HEIGHT = 2.3  # inches
TEXT_SHOWN = 160  # letters of a row's texts


def looks_section(evidence: Evidence) -> Section | None:
    """A table or two for each task that each final stage can answer, of its first seed, and a figure a stage."""
    shown = [(name, task, look) for name, runs in evidence.final().items() for task, look in runs[0].looks.items()]
    if not shown:
        return None
    tables = [table for one in shown for table in (_confusion(*one), _worst(*one)) if table]
    figures = [figure for name in evidence.final() if (figure := _calibration(name, shown))]
    text = "What a stage's last weights make of dev: whether answers are right as often as they are sure (figures, in "
    text += "report.html), what each class is taken for, and the rows that are most wrong. A task that no stage has "
    text += "trained is left out."
    return Section("Dev, closely", [text], tables, figures)


def _confusion(name: str, task: str, look: dict[str, Any]) -> ReportTable | None:
    counts, names = look["confusion"], look["names"]
    if not counts:
        return None
    rows = []
    for at, row in enumerate(counts):
        total = sum(row) or 1
        shares = [n / total for n in row]
        cells = [
            Cell(f"{n}", f"{share:.0%}", share if to == at else -share, strong=to == at, quiet=not n)
            for to, (n, share) in enumerate(zip(row, shares, strict=True))
        ]
        rows.append([Cell(names[at]), *cells])
    note = "A row a class, with what its rows of dev were said to be. Blue: right; orange: wrong."
    return ReportTable(f"{task} after {name}: what each class is taken for", ["is", *names], rows, ["said"], [note])


def _worst(name: str, task: str, look: dict[str, Any]) -> ReportTable | None:
    if not look["worst"]:
        return None
    names = look["names"]

    def said(value: float) -> str:
        return names[int(value)] if names else f"{value:.2f}"

    rows = [
        [
            Cell(" /\n".join(_short(text) for text in row["texts"])),
            Cell(said(row["label"])),
            Cell(said(row["predicted"])),
            Cell(f"{row['sure']:.2f}"),
        ]
        for row in look["worst"]
    ]
    last = "sure" if names else "off by"
    note = "The texts are as the tokenizer gives them back" + ("." if len(look["worst"][0]["texts"]) == 1 else
                                                              "; a stroke is between the two of a pair.")  # fmt: skip
    header = ["text", "is", "said", last]
    return ReportTable(f"{task} after {name}: most wrong", header, rows, notes=[note], words=3, prose=True)


def _short(text: str) -> str:
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]} ..."


def _calibration(name: str, shown: Sequence[tuple[str, str, dict[str, Any]]]) -> Figure | None:
    """A panel a task of classes, all of one stage."""
    panels = [_sure_panel(name, task, look["calibration"]) for stage, task, look in shown
              if stage == name and look["calibration"]]  # fmt: skip
    caption = (
        f"After {name}: the share of answers that is right, in ten bins of how sure they are, with how many there "
    )
    caption += "are; on the line they are as often right as they are sure."
    return Figure(caption, panels) if panels else None


def _sure_panel(name: str, task: str, bins: Sequence[tuple[float, float, int]]) -> str:
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
        panel.axes.set(title=task, xlabel="sure", ylabel="right", xlim=(0, 1.04), ylim=(0, 1.04))
        panel.axes.grid(axis="y")
        panel.axes.title.set_color(INK)
    return panel.text
