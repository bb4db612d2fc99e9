"""A plan's node -> the StageJob that a runner gets: all that a worker must know, and no more."""

from __future__ import annotations

from typing import Any

from multitask.experiment.fence import Owner
from multitask.experiment.stage_job import BUNDLE, JobData, JobModel, StageJob
from multitask.model.heads import loss_for
from multitask.recipe.stages import Stage
from multitask.tasks.own import definitions
from multitask.tasks.table import Split
from ray_jobs.driver.ledger import encoder_row
from ray_jobs.driver.plan import Node, Plan


def job_of(plan: Plan, node: Node) -> StageJob:
    """The job of a node whose name is claimed, in the experiment's current attempt."""
    trial, several = node.trial, any(other.variant for other in plan.nodes)
    children = plan.recipe.children(node.stage)
    return StageJob(
        owner=_owner(plan, node),
        stage=node.stage.model_dump(mode="json", by_alias=True),
        seed=node.seed,
        model=_model(plan, node),
        data=_data(plan, node),
        label=node.name,
        shown=f"{node.name} (seed {node.seed})" if several else node.name,
        settings=trial.settings if trial else {},
        by=trial.by if trial else "",
        measure_start=_measures_start(plan, node),
        keep_features=not trial and any(child.train == "last-linear-layer" for child in children),
        overall=plan.recipe.overall_of,
        measures=plan.recipe.measures,
        about=_about(plan, node),
    )


def _owner(plan: Plan, node: Node) -> Owner:
    experiment, trainer = plan.experiment, plan.records[node.key].trainer
    return Owner(experiment.storage.uri, experiment.name, trainer, experiment.attempt, experiment.writer)


def _model(plan: Plan, node: Node) -> JobModel:
    recipe, heads, above = plan.recipe, plan.heads(node.stage), plan.above(node)
    trained = above and f"{plan.experiment.name}/{above.trainer}/{BUNDLE}"
    return JobModel(
        start=trained or plan.start(recipe.parent(node.stage)).path,
        heads=heads,
        losses={
            task: loss_for(head, recipe.specs[task], recipe.tasks[task].loss, f"tasks.{task}")
            for task, head in heads.items()
        },
        loss_settings=recipe.loss_settings(node.stage),
        specs=definitions(recipe.specs),
        own=recipe.own_code,
    )


def _data(plan: Plan, node: Node) -> JobData:
    """A node's token caches. A stage that another one starts from predicts nothing, nor does a sweep's trial."""
    caches, lessons = plan.prepared.caches, plan.lessons(node.stage)
    inner = bool(plan.recipe.children(node.stage)) or node.trial is not None
    return JobData(
        train={task: lessons[task].train if task in lessons else caches[task]["train"] for task in node.stage.tasks},
        dev={task: splits["dev"] for task, splits in caches.items()},
        predict={} if inner else _to_predict(caches),
        teachers={task: lesson.teachers for task, lesson in lessons.items()},
    )


def _to_predict(caches: dict[str, dict[Split, str]]) -> dict[str, dict[Split, str]]:
    """What a finished recipe predicts: dev and, where there is one, test."""
    return {
        task: {split: path for split, path in splits.items() if split != "train"} for task, splits in caches.items()
    }


def _measures_start(plan: Plan, node: Node) -> bool:
    """Whether the node measures what it starts from: the encoder, once a seed, and any bundle of another experiment.

    What another experiment left was measured there, perhaps on other data: what this one costs is said here.
    """
    first = node.trial is None or node.trial.number == 0  # what is the same for all trials is done by the first
    if not first or plan.above(node):
        return False
    return plan.recipe.parent(node.stage) != "encoder" or encoder_row(plan, node.variant) is None


def _about(plan: Plan, node: Node) -> dict[str, Any]:
    """What the bundle of a node says of itself."""
    recipe, stage, record = plan.recipe, node.stage, plan.records[node.key]
    return {
        "recipe": recipe.name,
        "stage": stage.name,
        "objective": stage.objective,
        "tasks": stage.tasks,
        "trainer": record.trainer,
        "fingerprint": record.fingerprint,
        "encoder": recipe.encoder,
        "max_length": recipe.max_length,
        "max_bad_rows": recipe.max_bad_rows,
        "columns": {task: config.columns for task, config in recipe.tasks.items()},
        "notes": {task: config.note for task, config in recipe.tasks.items() if config.note},
        "trained": _trained_heads(plan, stage),
        **({"teachers": {task: teacher.bundle for task, teacher in stage.teachers.items()}} if stage.teachers else {}),
        **({"overall": recipe.overall_of} if recipe.overall else {}),
        **({"measures": recipe.measures} if recipe.measures else {}),
    }


def _trained_heads(plan: Plan, stage: Stage) -> list[str]:
    """The tasks whose heads are not as they were drawn: some stage trained them, or a bundle brought them along, and no
    stage since has a head of another name for them."""
    recipe, start = plan.recipe, plan.start(plan.recipe.root(stage))
    heads, trained = start.heads, set(start.trained)
    for above in map(recipe.stage, recipe.line(stage.name)):
        now = {**heads, **plan.heads(above)}
        trained = {task for task in trained if now.get(task) == heads.get(task)}
        trained |= {task for task in above.tasks if above.trains_head(task)}
        heads = now
    return sorted(trained)
