"""Whether the scores that a file holds are on the scale that its task says: a number of another scale is no error that
a reader could see, and teaches nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multitask.tasks.labels import KINDS
from multitask.tasks.table import TASKS, TaskSpec

SCALES = ((0, 1), (-1, 1), (0, 5), (1, 5), (0, 10), (0, 100))  # that people use
ENOUGH = 100  # rows of which none has the scale's least label


def scale_note(spec: TaskSpec, head: str, labels: NDArray[np.floating]) -> str:
    """What is to be said of a file's (N,) labels, nan where there is none, with the line that mends it; or "".

    head: the name of what is to learn them.
    """
    found = labels[~np.isnan(labels)]
    if not KINDS[spec.label.kind].scaled or len(np.unique(found)) < 2:  # equal ones show no scale
        return ""
    least, most, low, high = float(found.min()), float(found.max()), spec.label.low, spec.label.high
    middle = (low + high) / 2
    lies = f"{spec.label.column} lies in {least:g}..{most:g}, the task's is a score in {low:g}..{high:g}"
    if most <= middle or least >= middle:
        return f"{lies}; if the file's scale is another one: {_defined(spec, *_scale(least, most))}"
    if head == "cosine" and low == 0 and least >= 1 and len(found) >= ENOUGH:
        return (
            f"{lies}, and the head `cosine` takes {least:g} for a cosine of {least / high:.2g}; "
            f"if the file's scale begins there: {_defined(spec, *_scale(least, most))}, or head: interaction"
        )
    return ""


def _scale(least: float, most: float) -> tuple[float, float]:
    """The narrowest of SCALES that holds the numbers, else whole numbers around them."""
    fitting = [scale for scale in SCALES if scale[0] <= least and most <= scale[1]]
    return min(fitting, key=lambda scale: scale[1] - scale[0]) if fitting else (np.floor(least), np.ceil(most))


def _defined(spec: TaskSpec, low: float, high: float) -> str:
    """The line that defines such a task in a recipe. A built-in task stays as it is: the line gives its task another
    name."""
    label = f"label: {{column: {spec.label.column}, kind: {spec.label.kind}, low: {low:g}, high: {high:g}}}"
    if spec.name not in TASKS:
        return f"tasks.{spec.name}.define: {label}"
    return f"tasks.my-{spec.name}.define: {{columns: [{', '.join(spec.columns)}], {label}}}"
