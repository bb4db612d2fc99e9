"""The report's sweeps: each trial as a line through the settings that it tried, down to the metric that decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multitask.experiment.results import cell, is_trial, swept_settings
from multitask.measure.metrics import goodness, lower_is_better
from multitask.recipe.sweeps import said
from multitask.report.blocks import Cell, Figure, ReportTable, Section
from multitask.report.numbers import DASH, duration, number
from multitask.report.reading import Evidence, Run
from multitask.report.svg import GRID, INK, MUTED, PAPER, SERIES, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS = 0.7  # inches, from one axis to the next
LETTER = 0.022  # of a panel's width: what a letter of a label needs
LOG_FROM = 10.0  # an axis whose values span more than this factor is logarithmic


@dataclass(frozen=True)
class Sweep:
    """The trials of one stage's sweep under one seed, the best first and those without a score last."""

    stage: str
    variant: int
    by: str
    trials: list[Run]
    best: str | None
    """The name of the trial that the stage stands for; None before all have ended."""

    @property
    def settings(self) -> list[str]:
        return swept_settings([trial.row for trial in self.trials])


def sweeps(evidence: Evidence) -> list[Sweep]:
    """The sweeps whose trials the experiment's results tell of; each of several seeds has its own."""
    found: dict[tuple[str, int], list[Run]] = {}
    for run in evidence.runs:
        if is_trial(run.row) and run.row.get("settings"):  # which the oldest builds did not write
            found.setdefault((run.row["sweep"]["stage"], run.variant), []).append(run)
    return [_sweep(stage, variant, trials) for (stage, variant), trials in found.items()]


def _sweep(stage: str, variant: int, trials: list[Run]) -> Sweep:
    facts = trials[0].row["sweep"]
    by = facts["by"]
    ordered = sorted(trials, key=lambda run: goodness(by, run.metrics.get(by)), reverse=True)
    return Sweep(stage, variant, by, ordered, facts["best"])


def sweeps_section(evidence: Evidence) -> Section | None:
    """A table and a panel a sweep; None where nothing was swept."""
    found = sweeps(evidence)
    if not found:
        return None
    several = len({sweep.variant for sweep in found}) > 1
    text = "Each trial is a line through the settings that it tried, down to the dev metric that decides; the best is "
    text += "the thick one. An axis whose values span more than a factor of ten is logarithmic. A trial without "
    text += "a score is dashed, and ends above the metric."
    figures = [Figure(_title(sweep, several), [sweep_panel(sweep)]) for sweep in found]
    return Section("Sweeps", [text], [trials_table(sweep, _title(sweep, several)) for sweep in found], figures)


def _title(sweep: Sweep, several: bool) -> str:
    seed = f", seed {sweep.trials[0].row['seed']}" if several else ""
    return f"{sweep.stage}{seed}: {len(sweep.trials)} trials by {sweep.by.replace('/', ' ')}"


def trials_table(sweep: Sweep, caption: str) -> ReportTable:
    """A row a trial, the best first."""
    rows = []
    for place, run in enumerate(sweep.trials, start=1):
        strong = run.name == sweep.best
        settings = [Cell(said(run.row["settings"][key]), strong=strong) for key in sweep.settings]
        seconds = run.row["seconds"]
        effort = [Cell("" if seconds is None else duration(seconds)), Cell(run.row["status"])]
        rows.append([Cell(f"{place}"), *settings, _score(run, sweep.by, strong), *effort])
    header = ["place", *sweep.settings, sweep.by.replace("/", " "), "time", "status"]
    example = sweep.best or sweep.trials[0].name
    note = f"A trial is called by its settings, as {example} is, wherever a command takes a stage."
    return ReportTable(caption, header, rows, notes=[note])


def _score(run: Run, by: str, strong: bool) -> Cell:
    """A trial's score, or what it had measured last before it was stopped."""
    value = run.metrics.get(by)
    if value is not None:
        return Cell(number(value) + "*" * strong, strong=strong)
    known = [(epoch, metrics[by]) for epoch, metrics in run.measured if epoch and metrics.get(by) is not None]
    return Cell(DASH, f"{number(known[-1][1])} after epoch {known[-1][0]}" if known else "", quiet=True)


@dataclass(frozen=True)
class Scale:
    """Where the values of one axis stand, from 0 to 1: numbers by their size, or their logarithm; words evenly."""

    title: str
    values: Sequence[Any]
    log: bool
    words: bool

    @staticmethod
    def of(title: str, values: Iterable[Any], log: bool = True) -> Scale:
        """The scale of the values that are there. log: whether it may be logarithmic."""
        distinct = list(dict.fromkeys(values))
        words = any(isinstance(value, bool) or not isinstance(value, int | float) for value in distinct)
        ordered = sorted(distinct, key=str) if words else sorted(distinct)
        wide = not words and ordered[0] > 0 and ordered[-1] > LOG_FROM * ordered[0]
        return Scale(title, ordered, log and wide, words)

    def place(self, value: Any) -> float:
        if len(self.values) == 1:
            return 0.5
        if self.words:
            return self.values.index(value) / (len(self.values) - 1)
        low, high, at = (math.log(one) if self.log else one for one in (self.values[0], self.values[-1], value))
        return (at - low) / (high - low)


def sweep_panel(sweep: Sweep) -> str:
    """Parallel coordinates, the axes below one another so that a phone has room for any number of them."""
    scored = [run.metrics[sweep.by] for run in sweep.trials if run.metrics.get(sweep.by) is not None]
    scales = [Scale.of(key, [run.row["settings"][key] for run in sweep.trials]) for key in sweep.settings]
    metric = sweep.by.replace("/", " ") + (" (less is better)" if lower_is_better(sweep.by) else "")
    scales += [Scale.of(metric, scored, log=False)] if scored else []
    title = f"The trials of {sweep.stage}: {', '.join(sweep.settings)}, and {sweep.by.replace('/', ' ')}"
    with drawing(f"sweep-{sweep.stage}-{sweep.variant}", title, 0.3 + AXIS * len(scales)) as panel:
        axes = panel.axes
        axes.set(xlim=(-0.03, 1.03), ylim=(len(scales) - 0.6, -0.45), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for run in reversed(sweep.trials):  # the best last, above the others
            _trial_line(axes, sweep, run, scales)
        best = next((run for run in sweep.trials if run.name == sweep.best), None)
        for height, scale in enumerate(scales):
            marked = _values(sweep, best)[height : height + 1] if best else []
            _axis(axes, height, scale, marked, cell if height == len(sweep.settings) else said)
    return panel.text


def _values(sweep: Sweep, run: Run) -> list[Any]:
    """A trial's settings and, where it has one, its score: its value on each axis."""
    score = run.metrics.get(sweep.by)
    return [*(run.row["settings"][key] for key in sweep.settings), *([] if score is None else [score])]


def _trial_line(axes: Axes, sweep: Sweep, run: Run, scales: Sequence[Scale]) -> None:
    values, best = _values(sweep, run), run.name == sweep.best
    places = [scale.place(value) for scale, value in zip(scales, values, strict=False)]
    style: dict[str, Any] = {"color": SERIES[0], "linewidth": 2.4} if best else {"color": MUTED, "alpha": 0.55}
    style |= {} if len(values) > len(sweep.settings) else {"dashes": (3, 2)}
    size = 5.5 if best else 3.5
    axes.plot(places, range(len(places)), marker="o", markersize=size, markeredgecolor=PAPER, **style)


def _axis(axes: Axes, height: int, scale: Scale, marked: Sequence[Any], words: Any) -> None:
    """An axis with its title above and the values that have room below; those of `marked` first, in the best's
    colour."""
    axes.axhline(height, xmin=0.03, xmax=0.97, color=GRID, linewidth=1.0, zorder=0)
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}  # lines pass behind the words
    style: dict[str, Any] = {"fontsize": 7.5, "bbox": ground, "zorder": 3}
    name = f"{scale.title} (log)" if scale.log else scale.title
    axes.text(-0.03, height - 0.1, name, color=INK, va="bottom", **style)
    for value in roomy(scale, marked, words):
        place = scale.place(value)
        side = "left" if place < 0.02 else "right" if place > 0.98 else "center"
        colour = SERIES[0] if value in marked else MUTED
        axes.text(place, height + 0.11, words(value), color=colour, va="top", ha=side, **style)


def roomy(scale: Scale, marked: Sequence[Any], words: Any) -> list[Any]:
    """The values of a scale whose labels have room beside each other: those of `marked` first, then both ends."""
    spans: dict[Any, tuple[float, float]] = {}
    for value in dict.fromkeys([*marked, scale.values[0], scale.values[-1], *scale.values]):
        width = LETTER * len(words(value))
        left = min(max(scale.place(value) - width / 2, 0.0), 1.0 - width)
        if all(left > right + LETTER or left + width < other - LETTER for other, right in spans.values()):
            spans[value] = (left, left + width)
    return sorted(spans, key=scale.place)
