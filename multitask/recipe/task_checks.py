"""What a recipe's task must fulfil, and what the recipe names of the user's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multitask.data.own_sampler import SAMPLERS
from multitask.errors import UserError, near, shown
from multitask.measure.metrics import METRICS
from multitask.model.heads import HEADS, loss_for
from multitask.objectives.losses import LOSSES, check_settings
from multitask.recipe.settings import Task
from multitask.recipe.stages import Stage
from multitask.tasks.imported import imported, is_path, trust
from multitask.tasks.labels import KindName
from multitask.tasks.table import TASKS


def check_task(name: str, task: Task, where: str) -> None:
    """Raises UserError where the task of that name is none, or its settings do not fit together."""
    at = f"{where}: tasks.{name}"
    if not task.define and name not in TASKS:
        known = ", ".join(TASKS)
        raise UserError(
            f"{at}: unknown task '{name}'; known tasks: {known}; `define:` makes one of your own{near(name, TASKS)}"
        )
    spec = task.spec(name, f"{where}: ")
    import_own(f"{at}.head", HEADS, task.head)
    import_own(f"{at}.loss", LOSSES, task.loss)
    loss = loss_for(task.head or spec.head, spec, task.loss, at)
    check_settings(loss, task.loss_settings, spec, at)
    if task.weight and LOSSES[loss].similarity:
        raise UserError(f"{at}.weight: the loss '{loss}' is of pairs of rows, which have no weights; leave it out")
    for metric in task.measures:
        check_metric(f"{at}.measures", metric, spec.label.kind, spec.metrics)
    valid = [*spec.columns, spec.label.column, "id"]
    if unknown := set(task.columns) - {*valid}:
        meant = near(min(unknown), valid)
        raise UserError(f"{at}.columns: '{min(unknown)}' is no column of this task; valid: {', '.join(valid)}{meant}")


def check_metric(at: str, metric: str, kind: KindName, valid: Sequence[str], what: str = "metric") -> None:
    """Raises UserError unless it is among the valid ones of a kind of label, or is the user's own and can be of it."""
    import_own(at, METRICS, metric)
    if metric not in valid and not (is_path(metric) and METRICS[metric].serves(kind)):
        raise UserError(
            f"{at}: '{metric}' is no {what} of {kind}; valid: {', '.join(valid)}, or package.module:Name of one"
            f"{near(metric, valid)}"
        )


def check_sampler(at: str, stage: Stage) -> None:
    """Raises UserError where the stage names a sampler that is none, or beside what it plans itself."""
    if stage.sampler is None:
        return
    if not is_path(stage.sampler):
        raise UserError(f"{at}.sampler: '{stage.sampler}' is not of the form package.module:Name")
    import_own(f"{at}.sampler", SAMPLERS, stage.sampler)
    for key in ("mixing", "surgery"):
        if (value := getattr(stage, key)) != Stage.model_fields[key].default:
            raise UserError(f"{at}.{key}: {shown(value)}: the sampler plans which task comes when; leave one out")


def check_callback(at: str, path: str) -> None:
    """Imports a callback. Raises UserError where there is none; that it is one, Lightning's class says when it runs."""
    if not is_path(path):
        raise UserError(f"{at}: '{path}' is not of the form package.module:Name")
    _import(at, path, imported)


def import_own(at: str, table: Mapping[str, Any], name: str | None) -> None:
    """Imports what a recipe names by an import path. Raises UserError where there is none, or it is another thing."""
    if name and is_path(name):
        _import(at, name, table.__getitem__)


def _import(at: str, path: str, take: Callable[[str], Any]) -> None:
    trust([path])
    try:
        take(path)
    except UserError as error:
        raise UserError(f"{at}: {error}") from error
