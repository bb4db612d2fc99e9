"""What a recipe must fulfil: all of it is checked before any work starts, with the YAML path and the valid values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multitask.errors import UserError, near, shown
from multitask.measure.metrics import OVERALL_OF, lower_is_better, overall
from multitask.model.heads import HEADS, loss_for
from multitask.objectives.losses import check_settings
from multitask.objectives.table import OBJECTIVES
from multitask.recipe.settings import (
    DataMap,
    KeepBest,
    Settings,
    Task,
)
from multitask.recipe.stages import Recipe, Stage, says
from multitask.recipe.sweeps import trials
from multitask.recipe.task_checks import check_callback, check_metric, check_sampler, check_task, import_own
from multitask.tasks.imported import is_path
from multitask.tasks.labels import KINDS
from multitask.tasks.table import TASKS
from multitask.tasks.validating import validated


def build_recipe(tree: dict[str, Any], where: str) -> Recipe:
    """Validates a tree: `defaults` first, then every stage with the defaults under it."""
    tree = dict(tree)
    defaults = tree.get("defaults") or {}
    validated(Settings, defaults, where, "defaults")
    if isinstance(tree.get("stages"), list):
        tree["stages"] = [{**defaults, **item} if isinstance(item, dict) else item for item in tree["stages"]]
    recipe = validated(Recipe, tree, where, "")
    for stage in recipe.stages:
        import_own(f"{where}: stages.{stage.name}.objective", OBJECTIVES, stage.objective)
        check_sampler(f"{where}: stages.{stage.name}", stage)
        for path in stage.callbacks:
            check_callback(f"{where}: stages.{stage.name}.callbacks", path)
        for of, head in stage.heads.items():
            import_own(f"{where}: stages.{stage.name}.heads.{of}", HEADS, head)
    for name, task in recipe.tasks.items():
        check_task(name, task, where)
    _check_overall(recipe, where)
    _check_stages(recipe, where)
    check_heads(recipe, where)
    _check_tables(recipe, where)
    return recipe


def build_map(tree: Any, where: str) -> dict[str, Task]:
    """The tasks of a data map: `tasks:` as a recipe has it, or a recipe, of which nothing else is wanted."""
    if isinstance(tree, dict) and "stages" in tree:
        return build_recipe(tree, where).tasks
    found = validated(DataMap, tree, where, "").tasks
    for name, task in found.items():
        check_task(name, task, where)
    return found


OF_ENCODER = ("layer_decay", "lr_scale", "freeze", "unfreeze", "reinit")  # settings of an encoder that is trained


def _check_stages(recipe: Recipe, where: str) -> None:
    seen: list[str] = []
    for stage in recipe.stages:
        at = f"{where}: stages.{stage.name}"
        if stage.lr is None:
            raise UserError(f"{at}.lr: missing")
        if stage.name in seen or stage.name == "encoder":
            raise UserError(f"{at}.name: '{stage.name}' is taken; every stage needs a name of its own, not 'encoder'")
        parent = stage.from_
        if parent and parent != "encoder" and parent not in seen and "/" not in parent:
            known = ", ".join(["encoder", *seen])
            raise UserError(
                f"{at}.from: '{parent}' is no stage above it; valid: {known}, EXPERIMENT/STAGE, or a bundle's URI"
                f"{near(parent, ['encoder', *seen])}"
            )
        _check_own_tasks(recipe, stage, at)
        _check_objective(recipe, stage, at)
        _check_keep(recipe, stage, at)
        _check_sweep(recipe, stage, at)
        seen.append(stage.name)


def _check_own_tasks(recipe: Recipe, stage: Stage, at: str) -> None:
    for task in [*stage.tasks, *stage.heads]:
        if task not in recipe.tasks:
            key = "tasks" if task in stage.tasks else "heads"
            known = f"{', '.join(recipe.tasks)}{near(task, recipe.tasks)}"
            raise UserError(f"{at}.{key}: '{task}' is not among the recipe's tasks: {known}")
    if len(set(stage.tasks)) < len(stage.tasks):
        raise UserError(f"{at}.tasks: [{', '.join(stage.tasks)}] names a task twice; mixing gives a task more weight")
    named = ", ".join(stage.tasks)
    if isinstance(stage.mixing, dict) and set(stage.mixing) != set(stage.tasks):
        raise UserError(f"{at}.mixing: weights for {', '.join(stage.mixing)}; the stage's tasks are {named}")
    weighted = stage.loss_weights if isinstance(stage.loss_weights, dict) else {}
    if strange := set(weighted) - set(stage.tasks):
        meant = near(min(strange), stage.tasks)
        raise UserError(f"{at}.loss_weights: '{min(strange)}' is not among the stage's tasks: {named}{meant}")


# What is between tasks: key -> whether a stage asks for it.
BETWEEN_TASKS: dict[str, Callable[[Stage], bool]] = {
    "log.conflict": lambda stage: stage.log.conflict is not None,
    "surgery": lambda stage: stage.surgery != "none",
    "loss_weights": lambda stage: stage.loss_weights == "uncertainty",
}


def _check_several(stage: Stage, at: str) -> None:
    """Raises UserError where a stage asks for something between tasks that share nothing."""
    for key in (key for key, asked in BETWEEN_TASKS.items() if asked(stage)):
        if len(stage.tasks) < 2:
            raise UserError(f"{at}.{key}: it is between tasks, and the stage has one, {stage.tasks[0]}; two or more")
        if stage.train == "last-linear-layer":
            raise UserError(
                f"{at}.{key}: it is between tasks that share an encoder, and last-linear-layer trains heads alone; "
                "full-model"
            )
    if stage.surgery != "none" and stage.mixing != "round-robin":
        raise UserError(
            f"{at}.mixing: {stage.mixing} with surgery: {stage.surgery}; steps take a batch of each task, round-robin"
        )


def _check_options(stage: Stage, at: str) -> None:
    """Raises UserError unless the stage's `options:` are those of an objective of the user's own."""
    schema, (where, _, key) = stage.learns.Options, at.rpartition(": ")
    if is_path(stage.objective) and schema:
        validated(schema, stage.own_options, where, f"{key}.options")
    elif stage.own_options:
        why = "has none" if is_path(stage.objective) else "is built in, and its options stand under its name"
        raise UserError(f"{at}.options: {shown(stage.own_options)}: {stage.objective} {why}; leave it out")


def _check_objective(recipe: Recipe, stage: Stage, at: str) -> None:
    frozen = stage.train == "last-linear-layer"
    _check_options(stage, at)
    _check_several(stage, at)
    if stage.batch_size < 2 and stage.learns.compares(stage.options):
        raise UserError(
            f"{at}.batch_size: {stage.batch_size}: {stage.objective} learns from the other examples of a batch; 2 or "
            f"more"
        )
    if stage.wants_similar:
        specs = TASKS | recipe.specs
        rankable = [name for name, spec in specs.items() if spec.label.similar is not None]
        if strange := [name for name in stage.tasks if name not in rankable]:
            why = ", whose pairs are joined," if specs[strange[0]].joined else ""
            raise UserError(
                f"{at}.tasks: '{strange[0]}'{why} has no similar pairs for {stage.objective}; "
                f"tasks that have: {', '.join(rankable)}"
            )
    if frozen and not stage.learns.has_head:
        raise UserError(
            f"{at}.train: last-linear-layer leaves nothing to train, {stage.objective} has no head; full-model"
        )
    if frozen and (said := [name for name in OF_ENCODER if says(stage, name)]):
        default = json.dumps(Settings.model_fields[said[0]].default)
        raise UserError(
            f"{at}.{said[0]}: train: last-linear-layer leaves the encoder as it is; full-model, or {said[0]}: {default}"
        )
    if stage.copy_top and (frozen or not stage.learns.uses_head):
        what = "last-linear-layer trains none" if frozen else f"{stage.objective} trains no task's head"
        raise UserError(f"{at}.copy_top: layers become a task's own where it trains them; {what}; leave it out")
    if stage.smart and (frozen or not stage.learns.smooth):
        raise UserError(f"{at}.smart: it regularises the encoder of a supervised stage with train: full-model")
    if stage.smart and (others := set(stage.smart.tasks or ()) - set(stage.tasks)):
        named, meant = ", ".join(stage.tasks), near(min(others), stage.tasks)
        raise UserError(f"{at}.smart.tasks: '{min(others)}' is not among the stage's tasks: {named}{meant}")
    if stage.rdrop and not stage.learns.uses_head:
        raise UserError(f"{at}.rdrop: it compares what heads predict; {stage.objective} trains none; 0.0")
    if weighed := [task for task in stage.tasks if recipe.tasks[task].weight and not stage.learns.uses_head]:
        raise UserError(f"{at}.objective: {stage.objective} takes no rows' weights, and tasks.{weighed[0]} has some")
    for task in stage.teachers:
        _check_teacher(recipe, stage, task, f"{at}.teachers")


def _check_teacher(recipe: Recipe, stage: Stage, task: str, at: str) -> None:
    """Raises UserError unless the stage's task can learn from its teacher, as far as the recipe says."""
    teacher = stage.teachers[task]
    if not stage.learns.teachable:
        valid = ", ".join(name for name, found in OBJECTIVES.items() if found.teachable)
        raise UserError(f"{at}: a stage with objective: {stage.objective} learns from no teacher; valid: {valid}")
    if task not in stage.tasks:
        known = f"{', '.join(stage.tasks)}{near(task, stage.tasks)}"
        raise UserError(f"{at}: '{task}' is not among the stage's tasks: {known}")
    if teacher.bundle in [other.name for other in recipe.stages]:
        raise UserError(
            f"{at}.{task}.bundle: '{teacher.bundle}' is a stage of this recipe; a teacher is trained before, by "
            f"another one; valid: EXPERIMENT/STAGE, or a bundle's URI"
        )
    kind = recipe.specs[task].label.kind
    if teacher.temperature != 1 and (teacher.embeddings or not KINDS[kind].probability):
        what = "sentence encodings have" if teacher.embeddings else f"a {kind} has"
        raise UserError(f"{at}.{task}.temperature: {teacher.temperature:g}: {what} no probabilities; leave it out")
    if teacher.embeddings and stage.train == "last-linear-layer":
        raise UserError(f"{at}.{task}.embeddings: they are learned by the encoder, with train: full-model")


def _check_overall(recipe: Recipe, where: str) -> None:
    """Raises UserError unless the overall scores are of tasks that there are, by metrics that their labels have."""
    if recipe.overall is None:
        return
    at, tasks, measure = f"{where}: overall", recipe.overall.tasks, recipe.overall.measure
    for key, named, known in (("tasks", tasks, list(recipe.tasks)), ("measure", measure, tasks)):
        if strange := [task for task in named if task not in known]:
            whose = "the recipe's tasks" if key == "tasks" else "the tasks that count"
            raise UserError(
                f"{at}.{key}: '{strange[0]}' is not among {whose}: {', '.join(known)}{near(strange[0], known)}"
            )
    if len(set(tasks)) < len(tasks):
        raise UserError(f"{at}.tasks: [{', '.join(tasks)}] names a task twice; all count alike")
    for task, metric in measure.items():
        kind = recipe.specs[task].label.kind
        valid = [name for name in recipe.specs[task].metrics if not lower_is_better(f"{task}/{name}")]
        check_metric(f"{at}.measure.{task}", metric, kind, valid, "score")
        if lower_is_better(f"{task}/{metric}"):
            raise UserError(f"{at}.measure.{task}: '{metric}': less of it is better, so it is no part of a mean")


def _metrics(recipe: Recipe) -> list[str]:
    own = [spec.metric_key for spec in recipe.specs.values()]
    return list(dict.fromkeys([*own, *recipe.overall_of, *recipe.measures]))


def _deciding(recipe: Recipe, stage: Stage) -> list[str]:
    """The metrics by which an epoch or a trial of the stage can be chosen."""
    metrics = _metrics(recipe)
    metrics += list(overall({})) if recipe.overall or set(OVERALL_OF) <= set(metrics) else []
    return [*metrics, *stage.learns.measured]


def _check_sweep(recipe: Recipe, stage: Stage, at: str) -> None:
    """Raises UserError unless a sweep's trials are valid stages and a metric decides between them."""
    if stage.sweep is None:
        return
    metrics = _deciding(recipe, stage)
    if stage.sweep.by not in metrics:
        raise UserError(f"{at}.sweep.by: {_not_measured(stage.sweep.by, metrics)}")
    if stage.sweep.asha and stage.validate_every != "epoch":
        raise UserError(f"{at}.sweep.asha: it stops trials at epochs' ends, with validate: epoch, not 'stage'")
    for trial in trials(stage, recipe.seed, at):
        _check_objective(recipe, trial.stage, at)
        _check_keep(recipe, trial.stage, at)


def _not_measured(name: str, metrics: Sequence[str]) -> str:
    return f"'{name}' is not measured; valid: {', '.join(metrics)}{near(name, metrics)}"


def _check_keep(recipe: Recipe, stage: Stage, at: str) -> None:
    if not isinstance(stage.keep, KeepBest):
        if stage.patience:
            raise UserError(f"{at}.patience: {stage.patience}: of the metric that keep names: keep: {{best: METRIC}}")
        return
    metrics = _deciding(recipe, stage)
    if stage.keep.best not in metrics:
        raise UserError(f"{at}.keep.best: {_not_measured(stage.keep.best, metrics)}")
    if stage.validate_every != "epoch":
        raise UserError(f"{at}.keep: the best epoch is known only with validate: epoch, not 'stage'")


def check_heads(recipe: Recipe, where: str, carried: Mapping[str, Mapping[str, str]] | None = None) -> None:
    """Raises UserError unless every stage's heads fit their tasks and a last-layer stage has one to train. carried: the
    argument of Recipe.heads."""
    for stage in recipe.stages:
        heads, at = recipe.heads(stage, carried), f"{where}: stages.{stage.name}"
        for name in heads:
            spec, task = recipe.specs[name], recipe.tasks[name]
            loss = loss_for(heads[name], spec, task.loss, f"{at}.heads")
            check_settings(loss, task.loss_settings, spec, f"{where}: tasks.{name}")
        frozen = stage.train == "last-linear-layer" and stage.learns.uses_head
        for name in stage.tasks:
            if frozen and not HEADS[heads[name]].trainable:
                raise UserError(
                    f"{at}.train: last-linear-layer leaves nothing to train, "
                    f"the head '{heads[name]}' of {name} has no weights"
                )


def check_layers(
    recipe: Recipe, where: str, layers: Mapping[str, int], carried: Mapping[str, Mapping[str, str]]
) -> None:
    """Raises UserError where a stage, or a trial of its sweep, freezes or renews layers that its encoder has not, or
    leaves nothing to train. layers: root -> its encoder's; carried: the argument of Recipe.heads."""
    for stage in recipe.stages:
        heads, most = recipe.heads(stage, carried), layers[recipe.root(stage)]
        for tried in [trial.stage for trial in trials(stage, recipe.seed, where)] if stage.sweep else [stage]:
            at, freeze = f"{where}: stages.{stage.name}", tried.freeze or 0
            if freeze > most or tried.reinit > most or freeze + tried.reinit > most:
                key = "freeze" if freeze > most else "reinit"
                kept = f", of which {freeze} are frozen" if freeze and key == "reinit" else ""
                raise UserError(f"{at}.{key}: {getattr(tried, key)}: the encoder has {most} layers{kept}")
            if (own := tried.copy_top or 0) > most - freeze:
                kept = f", of which {freeze} are frozen" if freeze else ""
                raise UserError(f"{at}.copy_top: {own}: the encoder has {most} layers{kept}")
            if freeze == most and not _has_head(tried, heads):
                raise UserError(f"{at}.freeze: {freeze}: all layers of the encoder: a batch has nothing to train")
            if freeze == most and (between := [key for key, asked in BETWEEN_TASKS.items() if asked(tried)]):
                raise UserError(
                    f"{at}.{between[0]}: it is between tasks that train an encoder, and freeze: {freeze} leaves all of "
                    f"its layers as they are"
                )


def _has_head(stage: Stage, heads: Mapping[str, str]) -> bool:
    """Whether each of the stage's batches trains something outside the encoder."""
    through_heads = stage.learns.uses_head
    return stage.learns.has_head and not (through_heads and any(not HEADS[heads[it]].trainable for it in stage.tasks))


def _check_tables(recipe: Recipe, where: str) -> None:
    known = ["encoder", *(stage.name for stage in recipe.stages)]
    objectives = dict.fromkeys([*OBJECTIVES.values(), *(stage.learns for stage in recipe.stages)])
    own = [name for objective in objectives for name in objective.measured]
    metrics = [*_metrics(recipe), *own, *overall({})]
    for table in recipe.tables:
        named = [*table.metrics, *(name for condition in table.conditions.values() for name in condition.paper)]
        if strange := [name for name in named if name not in metrics]:
            raise UserError(f"{where}: tables.{table.title}: {_not_measured(strange[0], metrics)}")
        for label, condition in table.conditions.items():
            if condition.stage not in known:
                raise UserError(
                    f"{where}: tables.{table.title}.conditions.{label}.stage: no stage '{condition.stage}'; "
                    f"valid: {', '.join(known)}{near(condition.stage, known)}"
                )
