"""Whether `ray job submit` started this driver: the job's id, and the commands with which its user goes on."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multitask.experiment.results import Rows
    from multitask.recipe.stages import Recipe

# Where Ray's job supervisor tells the driver what it submitted (ray.dashboard.modules.job).
CONFIG, KEY = "RAY_JOB_CONFIG_JSON_ENV_VAR", "job_submission_id"


def submission_id() -> str | None:
    """The id of the Ray job that this process is the driver of; None where nobody submitted it."""
    found: str | None = json.loads(os.environ.get(CONFIG) or "{}").get("metadata", {}).get(KEY)
    return found


def how_to_go_on() -> str:
    """The command that goes on where this one stops."""
    words = _command(word for word in sys.argv[1:] if word != "--fresh")
    return f"go on by submitting it again: {words}" if submission_id() else f"go on with: {words}"


def after_sweep(recipe: Recipe, stage: str, rows: Rows, *, by_recipe: bool, words: Sequence[str]) -> str | None:
    """The command that trains the recipe's other stages from the best trial of the sweep that these results are of.

    by_recipe: whether the recipe itself sweeps the stage, and not the command line. words: the command's words, all but
    the best settings. Returns None where there are no other stages, and where there is no such command: where seeds
    have chosen differently, and for a sweep over the recipe's own.
    """
    best = [row["settings"] for row in rows if row["name"] == stage]
    trained = {row["name"] for row in rows}
    if all(other.name in trained for other in recipe.stages):
        return None
    if by_recipe:
        return _command(words)
    if recipe.stage(stage).sweep or any(settings != best[0] for settings in best):
        return None
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in best[0].items()}
    return _command([*words, *(word for key in said for word in ("--set", f"stages.{stage}.{key}={said[key]}"))])


def _command(words: Iterable[str]) -> str:
    start = "ray job submit ... -- python -m ray_jobs" if submission_id() else "minibert"
    return " ".join([start, *map(shlex.quote, words)])
