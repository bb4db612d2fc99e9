"""results.json as it stands: from the plan, and from what finished stages have left."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from multitask.experiment.records import read_records, written
from multitask.experiment.results import data_facts, row, versions
from multitask.experiment.stage_job import BUNDLE, node_key
from multitask.recipe.stages import Stage
from multitask.recipe.sweeps import varied
from ray_jobs.driver.plan import Node, Plan

# What an outcome says of its stage; stages of before the intervals have none.
OF_OUTCOME = ("epochs", "steps", "seconds", "examples_per_second", "metrics", "why", "intervals")


def results_of(plan: Plan, name: str) -> dict[str, Any]:
    """results.json's content: what came of the experiment of that name so far."""
    recipe, prepared = plan.recipe, plan.prepared
    variants = sorted({node.variant for node in plan.nodes})
    return {
        "schema": 1,
        "attempt": plan.experiment.attempt,
        "experiment": name,
        "recipe": recipe.name,
        "encoder": {"source": recipe.encoder, "fingerprint": prepared.start.fingerprint},
        "data": {
            task: data_facts(recipe.specs[task], tables, _rows_used(plan, task))
            for task, tables in prepared.tables.items()
        },
        **({"overall": recipe.overall_of} if recipe.overall else {}),
        "versions": versions(),
        "stages": [row for variant in variants for row in _variant(plan, variant)],
    }


def encoder_row(plan: Plan, variant: int) -> dict[str, Any] | None:
    """The dev metrics of one seed before any training, which the first stage from the encoder measures; None before it
    has."""
    for node in plan.nodes:
        outcome = plan.outcome(node) if node.variant == variant else None
        if outcome and outcome["start"] and plan.recipe.parent(node.stage) == "encoder":
            start: dict[str, Any] = outcome["start"]
            return start
        if node.variant == variant and node.trial and plan.recipe.parent(node.stage) == "encoder":
            records = read_records(plan.experiment.folder.at(plan.records[node.key].trainer), upto=0)
            if records:  # of a trial that measured it and was stopped, or failed
                return written(records[0].scores)
    return None


def _variant(plan: Plan, variant: int) -> list[dict[str, Any]]:
    """The rows of one seed: the encoder before training, then the stages."""
    started, nodes = encoder_row(plan, variant), [node for node in plan.nodes if node.variant == variant]
    first = row("encoder", seed=nodes[0].seed, variant=variant, status="measured" if started else "pending")
    return [first | (started or {}), *(_row(plan, node) for node in nodes)]


def _row(plan: Plan, node: Node) -> dict[str, Any]:
    stage, record, outcome = node.stage, plan.records[node.key], plan.outcome(node)
    facts: dict[str, Any] = {
        "trainer": record.trainer or None,
        "variant": node.variant,
        "seed": node.seed,
        "objective": stage.objective,
        "train": stage.train,
        "from": record.parent,
        "status": "finished" if outcome else record.status,
        "workers": record.workers,
        "rows": sum(_rows(plan, stage, task) for task in stage.tasks),
        "log": record.log,
        "submission_id": record.submission_id,
        **_swept(plan, node),
    }
    if outcome:
        facts |= {key: outcome[key] for key in OF_OUTCOME if key in outcome}
        facts["bundle"] = f"{record.trainer}/{BUNDLE}"
    return row(node.name, **facts)


def _swept(plan: Plan, node: Node) -> dict[str, Any]:
    """What a row says of its sweep, a trial's row or that of the stage that stands for the best one; {} for others.

    A stage that goes on with its best trial's settings, given as its own, stands for that trial still.
    """
    stage = plan.records[node_key(node.stage.name, node.variant)]
    if "trials" not in stage.content:
        return {}
    best = plan.experiment.best_trial(stage)
    facts = {"stage": node.stage.name, "by": stage.content["by"], "trials": list(stage.content["trials"]), "best": best}
    return {"settings": _settings(plan, node, best), "sweep": facts}


def _settings(plan: Plan, node: Node, best: str | None) -> dict[str, Any] | None:
    """The settings that a trial tried or, for a swept stage, those of the best trial; None before that is known."""
    if node.trial:
        return node.trial.settings
    tried = {at.name: at.trial.settings for at in plan.trials(node) if at.trial}
    if best and best not in tried:
        return {key: attrgetter(key)(node.stage) for key in varied(best)}  # `ranking.scale` too
    return tried.get(best or "")


def _rows_used(plan: Plan, task: str) -> int:
    return max((_rows(plan, node.stage, task) for node in plan.nodes if task in node.stage.tasks), default=0)


def _rows(plan: Plan, stage: Stage, task: str) -> int:
    length = len(plan.prepared.tables[task]["train"])
    return min(length, stage.max_examples or length)
