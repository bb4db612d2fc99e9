"""Which rows a model's numbers were fitted to after training: a calibration, or an ensemble's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEY = "fitted_on"  # in `about`


def fitted_on(about: Mapping[str, Any], task: str) -> list[str]:
    """The sha256 of each file of the task's rows that something was fitted to."""
    said = about.get(KEY, {}).get(task, [])
    return [said] if isinstance(said, str) else list(said)  # older ensembles name one


def with_fitting(about: Mapping[str, Any], files: Mapping[str, list[str]]) -> dict[str, Any]:
    """What a model says of itself when it was fitted to more files: task -> their sha256."""
    known = {task: fitted_on(about, task) for task in [*about.get(KEY, {}), *files]}
    found = {task: list(dict.fromkeys([*known[task], *files.get(task, [])])) for task in known}
    named = {task: some for task, some in found.items() if some}
    return {**about, KEY: named} if named else dict(about)
