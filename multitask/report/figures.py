"""The report's figures: training losses over steps, dev metrics over epochs, dev scores with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from multitask.experiment.results import summary
from multitask.report.blocks import Figure
from multitask.report.numbers import SCORES, kind_of, number, spread, task_of
from multitask.report.reading import ENCODER, LOSS, Curve, Evidence, Run
from multitask.report.svg import GRID, INK, MUTED, PAPER, SERIES, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 2.3  # inches
MOST_POINTS = 400  # of a curve
SMOOTHED_OVER = 15  # a curve is averaged over this part of its points
LINE = 0.095  # of a panel's height: what a label needs
NAME_SHOWN = 26  # letters of a stage's name beside its score
Labels = list[tuple[float, str, str]]  # y in data coordinates, text, colour


def thinned(curve: Curve) -> Curve:
    """At most MOST_POINTS points of a curve, evenly spaced, the last one among them."""
    picks = np.linspace(0, len(curve) - 1, min(len(curve), MOST_POINTS)).round().astype(int)
    return [curve[index] for index in picks]


def smoothed(curve: Curve) -> Curve:
    """A centred moving average, over fewer points towards the ends: it neither lags nor starts from zero."""
    values = np.array([value for _, value in curve])
    window = np.ones(min(len(values), max(1, len(values) // SMOOTHED_OVER) * 2 + 1))
    means = np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
    return [(step, float(mean)) for (step, _), mean in zip(curve, means, strict=True)]


def colours(evidence: Evidence) -> dict[str, str]:
    """A colour a task, the same in all figures."""
    metrics = [*evidence.metrics, *(name for run in evidence.runs for _, found in run.measured for name in found)]
    tasks = dict.fromkeys(task_of(metric) for metric in metrics if task_of(metric) != "overall")
    return {task: SERIES[index % len(SERIES)] for index, task in enumerate(tasks)}


def stage_figure(evidence: Evidence, name: str) -> Figure | None:
    """A stage's curves in the manner of the papers' figures 3 to 8; None before there is anything to draw."""
    runs, tint = evidence.stages[name], colours(evidence)
    kinds: dict[str, list[str]] = {}
    for metric in [m for run in runs for _, metrics in run.measured for m in metrics]:
        if task_of(metric) != "overall":
            kind = "scores" if kind_of(metric) in SCORES else kind_of(metric)
            kinds.setdefault(kind, [])
            kinds[kind] += [metric] if metric not in kinds[kind] else []
    panels = [loss_panel(name, runs, tint)] if any(run.losses for run in runs) else []
    panels += [dev_panel(evidence, name, kind, metrics, tint) for kind, metrics in kinds.items()]
    if not panels:
        return None
    row = runs[0].row
    seeds = f", {len(runs)} seeds" if len(runs) > 1 else ""
    return Figure(f"{name}: {row['objective']}, {row['train']}, from {row['from']}{seeds}", panels)


def loss_panel(name: str, runs: Sequence[Run], tint: dict[str, str]) -> str:
    """Training losses over steps, smoothed; behind a single run's the unsmoothed curve, pale."""
    with drawing(f"loss-{name}", f"Training loss of the stage {name} over its steps", HEIGHT) as panel:
        ends: dict[str, list[float]] = {}
        for run in runs:
            for tag, curve in run.losses.items():
                colour = tint.get(_loss_task(tag), INK)
                if len(runs) == 1:
                    _plot(panel.axes, thinned(curve), colour, alpha=0.28, linewidth=0.8)
                smooth = thinned(smoothed(curve))
                _plot(panel.axes, smooth, colour, alpha=1.0 if len(runs) == 1 else 0.7)
                ends.setdefault(tag, []).append(smooth[-1][1])
        if len(ends) > 1:
            named = [(fmean(y), _loss_task(tag) or "all", tint.get(_loss_task(tag), INK)) for tag, y in ends.items()]
            _label_ends(panel.axes, named)
        panel.axes.set(title="training loss", xlabel="step")
        panel.axes.grid(axis="y")
    return panel.text


def _loss_task(tag: str) -> str:
    return tag.removeprefix(LOSS).removeprefix("_")


def _plot(axes: Axes, curve: Curve, colour: str, **style: float) -> None:
    marker = "o" if len(curve) == 1 else ""
    axes.plot([x for x, _ in curve], [y for _, y in curve], color=colour, marker=marker, **style)  # type: ignore[arg-type]


def dev_panel(evidence: Evidence, name: str, kind: str, metrics: Sequence[str], tint: dict[str, str]) -> str:
    """Dev metrics over epochs; epoch 0 is what the stage started from."""
    with drawing(f"dev-{kind}-{name}", f"Dev {kind} of the stage {name} over its epochs", HEIGHT) as panel:
        from matplotlib.ticker import MaxNLocator

        labels: Labels = []
        called = _called(metrics)
        for metric in metrics:
            colour, last = tint[task_of(metric)], []
            for run in evidence.stages[name]:
                curve = [(epoch, value) for epoch, value in dev_curve(evidence, run, metric) if value is not None]
                if curve:
                    panel.axes.plot(*zip(*curve, strict=True), color=colour, marker="o", markeredgecolor=PAPER)
                    last.append(curve[-1][1])
            if last:
                labels.append((fmean(last), f"{called[metric]} {number(fmean(last))}", colour))
        panel.axes.set(title=f"dev {kind}", xlabel="epoch")
        panel.axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.axes.margins(x=0.06, y=0.12)
        panel.axes.grid(axis="y")
        _label_ends(panel.axes, labels)
    return panel.text


def _called(metrics: Sequence[str]) -> dict[str, str]:
    """What each line is called: by its task, with the metric where the task has several lines."""
    tasks = [task_of(metric) for metric in metrics]
    return {
        metric: task if tasks.count(task) == 1 else f"{task} {kind_of(metric)}"
        for metric, task in zip(metrics, tasks, strict=True)
    }


def dev_curve(evidence: Evidence, run: Run, metric: str) -> list[tuple[int, float | None]]:
    """(epoch, value) of a metric, from epoch 0 on: measured by the stage itself, or taken from the run that it started
    from."""
    curve = [(epoch, metrics.get(metric)) for epoch, metrics in run.measured]
    parent = evidence.parent(run)
    if parent and not any(epoch == 0 for epoch, _ in curve):
        curve.insert(0, (0, parent.metrics.get(metric)))
    return curve


def _label_ends(axes: Axes, labels: Labels) -> None:
    """Names beside the ends of lines, moved apart where they would touch."""
    low, high = axes.get_ylim()
    places = apart([(y - low) / (high - low) for y, _, _ in labels], LINE)
    for place, (_, text, colour) in zip(places, labels, strict=True):
        axes.text(1.02, place, text, color=colour, transform=axes.transAxes, va="center", fontsize=7.5)
    axes.set_ylim(low, high)


def apart(places: Sequence[float], least: float) -> list[float]:
    """Places moved, in their order, to be at least `least` from each other, no further than needed, within 0 .. 1."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + least)
    ceiling = 1.0
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - least
    return moved


def interval_figure(evidence: Evidence) -> Figure | None:
    """Dev scores of the final stages with 95 % bootstrap intervals, a panel a metric; the encoder for comparison."""
    shown = {name: evidence.stages[name] for name in evidence.stages if name == ENCODER} | evidence.final()
    metrics = [
        metric
        for metric in evidence.metrics
        if any(m == metric for n in evidence.final() for r in shown[n] for m in r.metrics)
    ]
    panels = [interval_panel(evidence, metric, shown) for metric in metrics]
    if not panels:
        return None
    caption = (
        "Dots are dev scores, bars their 95 % bootstrap intervals (none where they were not measured), a seed each; "
        "the upright line is the seeds' mean; dashed is the majority class; the encoder is as it was before any "
        "training."
    )
    return Figure(caption, panels)


def interval_panel(evidence: Evidence, metric: str, stages: dict[str, list[Run]]) -> str:
    scored = {name: [r for r in runs if r.metrics.get(metric) is not None] for name, runs in stages.items()}
    scored = {name: runs for name, runs in scored.items() if runs}
    title = metric.replace("/", " ")
    name = f"final-{metric.replace('/', '-')}"
    with drawing(name, f"Dev {title} of the final stages with 95 % intervals", 0.6 + 0.42 * len(scored)) as panel:
        for place, (stage, runs) in enumerate(scored.items()):
            _stage_line(panel.axes, place, stage, runs, metric)
        facts = evidence.results["data"].get(task_of(metric), {})
        base = facts.get("majority_baseline") if kind_of(metric) == "accuracy" else None
        if base is not None:
            panel.axes.axvline(base, color=MUTED, linewidth=0.8, dashes=(3, 3), zorder=0)
        panel.axes.set(title=title, ylim=(len(scored) - 0.64, -0.75), yticks=[])
        panel.axes.spines["left"].set_visible(False)
        panel.axes.margins(x=0.06)
        panel.axes.locator_params(axis="x", nbins=6)
        panel.axes.grid(axis="x")
    return panel.text


def _stage_line(axes: Axes, place: int, stage: str, runs: Sequence[Run], metric: str) -> None:
    """A stage's name and score over its dots, one a seed, each with its interval; through several goes their mean."""
    values = [run.metrics[metric] or 0.0 for run in runs]
    colour, several = MUTED if stage == ENCODER else SERIES[0], len(runs) > 1
    heights = place + 0.04 + (np.linspace(-0.11, 0.11, len(runs)) if several else np.zeros(1))
    dot: dict[str, Any] = {"color": colour, "markeredgecolor": PAPER, "markersize": 5.5}
    for run, value, height in zip(runs, values, heights, strict=True):
        if metric in run.intervals:
            axes.plot(run.intervals[metric], (height, height), color=colour, linewidth=1.6, alpha=0.5 if several else 1)
        axes.plot([value], [height], "o", **dot)
    if several:
        axes.plot([fmean(values)] * 2, (heights[0] - 0.1, heights[-1] + 0.1), color=colour, linewidth=1.6)
    found = summary(values)
    assert found
    shown = stage if len(stage) <= NAME_SHOWN else f"{stage[: NAME_SHOWN // 2]}…{stage[1 - NAME_SHOWN // 2 :]}"
    line = axes.get_yaxis_transform()
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}  # lines pass behind the words
    style: dict[str, Any] = {"transform": line, "va": "bottom", "fontsize": 7.5, "bbox": ground}
    axes.text(0, place - 0.26, shown, **style)
    axes.text(1, place - 0.26, spread(found), ha="right", **style)
    axes.axhline(place + 0.36, color=GRID, linewidth=0.4)
