"""The experiment's driver: plans the recipe's stages, runs those that are not finished, writes what came of them.

There is no training here. A stage is a StageJob; a runner executes it in this process or on Ray workers, and
what it leaves in the storage is read from there.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from lightning_modules.finishing import OUTCOME
from lightning_modules.progress import Interrupted
from multitask.errors import StorageError
from multitask.experiment import Experiment, StageJob, StageRecord, stage_content
from multitask.model.heads import loss_for
from multitask.recipe import Recipe, Stage
from multitask.results import data_facts, row, versions
from multitask.storage import Storage
from multitask.tasks import TASKS, Split
from ray_jobs.local import LocalRunner
from ray_jobs.prepare import Prepared, Start, prepare
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from ray_jobs.workers import RayRunner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the command line asks for; `log` is where the driver's log will lie in the experiment."""

    recipe: Recipe
    data: str | None
    storage: Storage
    experiment: str
    workers: int
    fresh: bool
    log: str | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Node:
    """A stage under one of several seeds: what is trained once. Its key names it in experiment.json."""

    stage: Stage
    variant: int
    seed: int

    @property
    def key(self) -> str:
        return node_key(self.stage.name, self.variant)


def node_key(stage: str, variant: int) -> str:
    return f"{stage}#{variant}" if variant else stage


class Driver:
    """One run of an experiment. Raises UserError before anything starts, Interrupted where the user stopped it."""

    def __init__(self, request: Request, screen: Screen) -> None:
        self.request, self.recipe, self.storage = request, request.recipe, request.storage
        self.screen = screen
        screen.say("reading the data and the encoder ...")
        self.prepared: Prepared = prepare(self.recipe, request.data, self.storage)
        self.experiment = Experiment(request.storage, request.experiment)
        seeds = range(self.recipe.seed, self.recipe.seed + request.seeds)
        self.nodes = [Node(stage, at, seed) for at, seed in enumerate(seeds) for stage in self.recipe.stages]
        self.plan: dict[str, StageRecord] = {}

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Every stage that is not finished, in the recipe's order; returns the results."""
        self.claim()
        self.experiment.begin_attempt()
        recipe = yaml.safe_dump(self.recipe.model_dump(mode="json", by_alias=True), sort_keys=False)
        self.experiment.folder.write_bytes("recipe.yaml", recipe.encode())
        todo = [node for node in self.nodes if not self._outcome(node.key)]
        for node in self.nodes:
            if node not in todo:
                self.plan[node.key].status = "finished"
                self.screen.say(f"{node.key}: finished before, skipped ({self.plan[node.key].trainer})")
        self.experiment.save()
        if todo and not stop.asked:
            with self._runner(stop) as runner:
                for node in todo:
                    if not stop.asked:
                        self._run_stage(node, runner)
        if stop.asked and not all(self._outcome(node.key) for node in self.nodes):
            raise Interrupted(self.request.experiment)
        return self.write_results()

    def _runner(self, stop: StopRequest) -> LocalRunner | RayRunner:
        workers = self.request.workers
        return RayRunner(workers, self.screen, stop) if workers else LocalRunner(self.screen, stop)

    def claim(self) -> None:
        """Fingerprints of all stages, parents first; another stage under a known name is refused here."""
        for node in self.nodes:
            parent = self.recipe.parent(node.stage)
            content = stage_content(
                self.recipe,
                node.stage,
                self._heads(node.stage),
                self.prepared.shas(),
                self._fingerprint(parent, node.variant),
                node.seed,
            )
            self.plan[node.key] = self.experiment.claim(node.key, content, parent, self.request.fresh, node.variant)

    def _fingerprint(self, parent: str, variant: int) -> str:
        above = self.plan.get(node_key(parent, variant))
        return above.fingerprint if above else self._start(parent).fingerprint

    def _heads(self, stage: Stage) -> dict[str, str]:
        return self.recipe.heads(stage, self.prepared.heads())

    def _start(self, parent: str) -> Start:
        return self.prepared.start if parent == "encoder" else self.prepared.bundles[parent]

    def _outcome(self, key: str) -> dict[str, Any] | None:
        folder = self.experiment.folder.at(self.plan[key].trainer)
        outcome: dict[str, Any] | None = folder.read_json(OUTCOME) if folder.exists(OUTCOME) else None
        return outcome

    def _run_stage(self, node: Node, runner: LocalRunner | RayRunner) -> None:
        record = self.plan[node.key]
        record.status, record.attempt = "running", self.experiment.attempt
        record.workers, record.log = self.request.workers, self.request.log
        self.experiment.save()
        self.write_results()
        log.info("stage %s: %s starts, attempt %s", node.key, record.trainer, record.attempt)
        try:
            runner.run(self.job(node))
            if not self._outcome(node.key):
                raise RuntimeError(f"stage '{node.key}' ended without an outcome in {record.trainer}")
        except BaseException as error:
            if isinstance(error, Exception):
                record.status = "interrupted" if isinstance(error, Interrupted) else "failed"
            with suppress(StorageError):  # what ended the stage is what has to be said
                self._close()
            raise
        record.status = "finished"
        self._close()

    def _close(self) -> None:
        self.screen.end_line()
        self.experiment.save()
        self.write_results()

    def job(self, node: Node) -> StageJob:
        recipe, stage, record = self.recipe, node.stage, self.plan[node.key]
        parent, heads, children = recipe.parent(stage), self._heads(stage), recipe.children(stage)
        caches, above = self.prepared.caches, self.plan.get(node_key(parent, node.variant))
        return StageJob(
            storage=self.storage.uri,
            experiment=self.request.experiment,
            trainer=record.trainer,
            attempt=self.experiment.attempt,
            writer=self.experiment.writer,
            stage=stage.model_dump(mode="json", by_alias=True),
            seed=node.seed,
            heads=heads,
            losses={
                task: loss_for(head, TASKS[task], recipe.tasks[task].loss, f"tasks.{task}")
                for task, head in heads.items()
            },
            start=f"{self.request.experiment}/{above.trainer}/bundle" if above else self._start(parent).path,
            train={task: caches[task]["train"] for task in stage.tasks},
            dev={task: splits["dev"] for task, splits in caches.items()},
            # What another experiment left was measured there, perhaps on other data: what this one costs is said here.
            measure_start=not above and (parent != "encoder" or self._encoder_row(node.variant) is None),
            keep_features=any(child.train == "last-linear-layer" for child in children),
            predict={} if children else _to_predict(caches),
            about={
                "recipe": recipe.name,
                "stage": stage.name,
                "trainer": record.trainer,
                "fingerprint": record.fingerprint,
                "encoder": recipe.encoder,
                "max_length": recipe.max_length,
                "max_bad_rows": recipe.max_bad_rows,
                "columns": {task: config.columns for task, config in recipe.tasks.items()},
            },
        )

    def _encoder_row(self, variant: int) -> dict[str, Any] | None:
        """The dev metrics before any training, which the first stage from the encoder measures."""
        for node in self.nodes:
            outcome = self._outcome(node.key) if node.variant == variant else None
            if outcome and outcome["start"] and self.recipe.parent(node.stage) == "encoder":
                start: dict[str, Any] = outcome["start"]
                return start
        return None

    def write_results(self) -> dict[str, Any]:
        """results.json as it stands. Raises Superseded where another driver writes it now."""
        self.experiment.check()
        recipe = self.recipe
        results = {
            "schema": 1,
            "experiment": self.request.experiment,
            "recipe": recipe.name,
            "encoder": {"source": recipe.encoder, "fingerprint": self.prepared.start.fingerprint},
            "data": {
                task: data_facts(task, tables, self._rows_used(task)) for task, tables in self.prepared.tables.items()
            },
            "versions": versions(),
            "stages": [row for at in range(self.request.seeds) for row in self._variant(at)],
        }
        self.experiment.folder.write_json("results.json", results)
        return results

    def _variant(self, variant: int) -> list[dict[str, Any]]:
        """The rows of one seed: the encoder before training, then the stages."""
        started, nodes = self._encoder_row(variant), [node for node in self.nodes if node.variant == variant]
        first = row("encoder", seed=nodes[0].seed, variant=variant, status="measured" if started else "pending")
        return [first | (started or {}), *(self._row(node) for node in nodes)]

    def _rows_used(self, task: str) -> int:
        return max((self._rows(stage, task) for stage in self.recipe.stages if task in stage.tasks), default=0)

    def _rows(self, stage: Stage, task: str) -> int:
        length = len(self.prepared.tables[task]["train"])
        return min(length, stage.max_examples or length)

    def _row(self, node: Node) -> dict[str, Any]:
        stage, record, outcome = node.stage, self.plan[node.key], self._outcome(node.key)
        facts: dict[str, Any] = {
            "trainer": record.trainer,
            "variant": node.variant,
            "seed": node.seed,
            "objective": stage.objective,
            "train": stage.train,
            "from": record.parent,
            "status": "finished" if outcome else record.status,
            "workers": record.workers,
            "rows": sum(self._rows(stage, task) for task in stage.tasks),
            "log": record.log,
        }
        if outcome:
            facts |= {
                key: outcome[key]
                for key in ("epochs", "steps", "seconds", "examples_per_second", "metrics", "why", "intervals")
                if key in outcome  # stages of before the intervals have none
            }
            facts["bundle"] = f"{record.trainer}/bundle"
        return row(stage.name, **facts)


def _to_predict(caches: dict[str, dict[Split, str]]) -> dict[str, dict[Split, str]]:
    """What a finished recipe predicts: dev and, where there is one, test."""
    return {
        task: {split: path for split, path in splits.items() if split != "train"} for task, splits in caches.items()
    }
