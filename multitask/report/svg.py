"""Matplotlib drawings as inline SVG that takes the page's colours and fonts.

Figures are drawn with placeholder colours, which become CSS variables: so one drawing fits light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#0f0f01", "#0f0f02", "#0f0f03", "#0f0f04"
SERIES = tuple(f"#0f0f1{index}" for index in range(6))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES)
}
WIDTH = 3.7  # inches, of a panel; the page scales it to its column
STYLE: Any = {  # matplotlib's type for it lists every setting there is
    "svg.fonttype": "none",
    "svg.hashsalt": "minibert",  # the same drawing has the same ids
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # wider than most, so that what was measured with it has room
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
}


class Drawing:
    """One panel while it is drawn; `text` is its SVG afterwards."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure, self.axes, self.text = figure, axes, ""


@contextmanager
def drawing(name: str, title: str, height: float) -> Iterator[Drawing]:
    """A panel of `height` inches. name: its own within the page; its ids start so. title: read out and shown.

    Without pyplot: nothing global, no display.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panel = Drawing(figure, figure.subplots())
        yield panel
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    panel.text = inline(written.getvalue(), name, title)


def inline(svg: str, name: str, title: str) -> str:
    """A whole SVG file made part of a page: ids of its own, CSS variables for colours, a title for screen readers."""
    name = re.sub(r"[^\w.-]", "_", name)
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"\bid=\"", f'id="{name}-', body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"(font-family: |font: [^;\"]*?px )[^;\"]*", r"\1var(--sans)", body)  # as versions write it
    body = re.sub(r"#0f0f[0-9a-f]{2}", lambda match: f"var({VARIABLES[match[0]]})", body)
    box = re.search(r'viewBox="([^"]*)"', body)
    assert box, "matplotlib writes a viewBox"
    label = escape(title, quote=True)
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{label}" stroke-linejoin="round"><title>{label}</title>'
    return head + re.sub(r"\n\s*", "\n", body[body.index(">") + 1 :]).strip()
