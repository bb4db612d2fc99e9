"""Metrics as a report orders, names and prints them."""

from __future__ import annotations

from collections.abc import Iterable

from multitask.experiment.results import Summary, cell
from multitask.measure.metrics import METRICS, OVERALL_OF, lower_is_better

FIRST = (*OVERALL_OF, "overall/mean", "overall/normalised")
# Kinds on one scale, where more is better; any other (perplexity, say) has a scale of its own.
SCORES = frozenset({*(kind for kind in METRICS if not lower_is_better(kind)), "mean", "normalised"})
DASH = "–"
LARGE = 10.0  # from here on one digit is enough


def ordered(metrics: Iterable[str]) -> list[str]:
    """The metrics in a report's order, each once: the papers' three, the overall scores, then the rest in the order
    given."""
    found = list(dict.fromkeys(metrics))
    return [name for name in FIRST if name in found] + [name for name in found if name not in FIRST]


def task_of(metric: str) -> str:
    return metric.partition("/")[0]


def kind_of(metric: str) -> str:
    return metric.rpartition("/")[2]


def number(value: float | None) -> str:
    """A metric's value in the papers' form, .749; a dash for None."""
    if value is None:
        return DASH
    return cell(value) if abs(value) < LARGE else f"{value:,.1f}"


def signed(value: float) -> str:
    """A difference with its sign: +.120 or −.131; 0 is exactly 0 alone, so a smaller change than .001 keeps its size:
    −4e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    return ("+" if value > 0 else "−") + (number(size) if size >= 0.0005 else f"{size:.0e}")


def spread(found: Summary, show_sign: bool = False) -> str:
    """A mean and its deviation: .411, or .411 ± .004 over several seeds; 0 and no more where nothing varies."""
    mean = signed(found.mean) if show_sign else number(found.mean)
    if not found.sd:
        return mean
    return f"{mean} ± {number(found.sd) if abs(found.mean) < LARGE else f'{found.sd:.1f}'}"


def quantity(value: float | None) -> str:
    """Hours or money: two digits behind the point, of small ones two that say something; 0.42, 12.50, 0.0031."""
    if value is None:
        return DASH
    return f"{value:,.2f}" if value == 0 or value >= 0.1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 47 s, 12 min 5 s, 1 h 40 min."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
