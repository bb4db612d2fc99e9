"""The experiment's driver: plans the recipe's stages, runs those that are not finished, writes what came of them.

There is no training here. A stage is a StageJob; a runner executes it in this process or on Ray workers, and
what it leaves in the storage is read from there.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import yaml

from lightning_modules.finishing import OUTCOME
from lightning_modules.progress import Interrupted
from multitask.experiment import Experiment, StageJob, StageRecord, stage_content
from multitask.model.heads import loss_for
from multitask.recipe import Recipe, Stage, head_name
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


class Driver:
    """One run of an experiment. Raises UserError before anything starts, Interrupted where the user stopped it."""

    def __init__(self, request: Request, screen: Screen) -> None:
        self.request, self.recipe, self.storage = request, request.recipe, request.storage
        self.screen = screen
        screen.say("reading the data and the encoder ...")
        self.prepared: Prepared = prepare(self.recipe, request.data, self.storage)
        self.experiment = Experiment(request.storage, request.experiment)
        self.plan: dict[str, StageRecord] = {}

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Every stage that is not finished, in the recipe's order; returns the results."""
        self.claim()
        self.experiment.begin_attempt()
        recipe = yaml.safe_dump(self.recipe.model_dump(mode="json", by_alias=True), sort_keys=False)
        self.experiment.folder.write_bytes("recipe.yaml", recipe.encode())
        todo = [stage for stage in self.recipe.stages if not self._finished(stage)]
        for stage in self.recipe.stages:
            if stage not in todo:
                self.plan[stage.name].status = "finished"
                self.screen.say(f"{stage.name}: finished before, skipped ({self.plan[stage.name].trainer})")
        self.experiment.save()
        if todo and not stop.asked:
            with self._runner(stop) as runner:
                for stage in todo:
                    if not stop.asked:
                        self._run_stage(stage, runner)
        if stop.asked and not all(self._finished(stage) for stage in self.recipe.stages):
            raise Interrupted(self.request.experiment)
        return self.write_results()

    def _runner(self, stop: StopRequest) -> LocalRunner | RayRunner:
        workers = self.request.workers
        return RayRunner(workers, self.screen, stop) if workers else LocalRunner(self.screen, stop)

    def claim(self) -> None:
        """Fingerprints of all stages, parents first; another stage under a known name is refused here."""
        for stage in self.recipe.stages:
            parent = self.recipe.parent(stage)
            content = stage_content(
                self.recipe, stage, self.prepared.shas(), self._fingerprint(parent), self.recipe.seed
            )
            self.plan[stage.name] = self.experiment.claim(stage.name, content, parent, self.request.fresh)

    def _fingerprint(self, parent: str) -> str:
        if parent in self.plan:
            return self.plan[parent].fingerprint
        return self._start(parent).fingerprint

    def _start(self, parent: str) -> Start:
        return self.prepared.start if parent == "encoder" else self.prepared.bundles[parent]

    def _finished(self, stage: Stage) -> bool:
        return self._outcome(stage.name) is not None

    def _outcome(self, name: str) -> dict[str, Any] | None:
        folder = self.experiment.folder.at(self.plan[name].trainer)
        outcome: dict[str, Any] | None = folder.read_json(OUTCOME) if folder.exists(OUTCOME) else None
        return outcome

    def _run_stage(self, stage: Stage, runner: LocalRunner | RayRunner) -> None:
        record = self.plan[stage.name]
        record.status, record.attempt = "running", self.experiment.attempt
        record.workers, record.log = self.request.workers, self.request.log
        self.experiment.save()
        self.write_results()
        log.info("stage %s: %s starts, attempt %s", stage.name, record.trainer, record.attempt)
        try:
            runner.run(self.job(stage))
            if not self._finished(stage):
                raise RuntimeError(f"stage '{stage.name}' ended without an outcome in {record.trainer}")
            record.status = "finished"
        except Interrupted:
            record.status = "interrupted"
            raise
        except Exception:
            record.status = "failed"
            raise
        finally:
            self.screen.end_line()
            self.experiment.save()
            self.write_results()

    def job(self, stage: Stage) -> StageJob:
        record, parent = self.plan[stage.name], self.recipe.parent(stage)
        caches = self.prepared.caches
        start = self._start(parent).path if parent not in self.plan else self._bundle(parent)
        last = stage is self.recipe.stages[-1]
        heads = {task: head_name(self.recipe, task) for task in self.recipe.tasks}
        return StageJob(
            storage=self.storage.uri,
            experiment=self.request.experiment,
            trainer=record.trainer,
            attempt=self.experiment.attempt,
            writer=self.experiment.writer,
            stage=stage.model_dump(mode="json", by_alias=True),
            seed=self.recipe.seed,
            heads=heads,
            losses={
                task: loss_for(head, TASKS[task], self.recipe.tasks[task].loss, f"tasks.{task}")
                for task, head in heads.items()
            },
            start=start,
            train={task: caches[task]["train"] for task in stage.tasks},
            dev={task: splits["dev"] for task, splits in caches.items()},
            measure_start=parent == "encoder" and self._encoder_row() is None,
            predict=_to_predict(caches) if last else {},
            about={
                "recipe": self.recipe.name,
                "stage": stage.name,
                "trainer": record.trainer,
                "fingerprint": record.fingerprint,
                "encoder": self.recipe.encoder,
                "max_length": self.recipe.max_length,
                "max_bad_rows": self.recipe.max_bad_rows,
                "columns": {task: config.columns for task, config in self.recipe.tasks.items()},
            },
        )

    def _bundle(self, stage: str) -> str:
        return f"{self.request.experiment}/{self.plan[stage].trainer}/bundle"

    def _encoder_row(self) -> dict[str, Any] | None:
        """The dev metrics before any training, which the first stage from the encoder measures."""
        for name in self.plan:
            outcome = self._outcome(name)
            if outcome and outcome["start"]:
                start: dict[str, Any] = outcome["start"]
                return start
        return None

    def write_results(self) -> dict[str, Any]:
        """results.json as it stands. Raises Superseded where another driver writes it now."""
        self.experiment.check()
        recipe, started = self.recipe, self._encoder_row()
        first = row("encoder", seed=recipe.seed, status="pending")
        if started:
            first |= {"status": "measured", **started}
        results = {
            "schema": 1,
            "experiment": self.request.experiment,
            "recipe": recipe.name,
            "encoder": {"source": recipe.encoder, "fingerprint": self.prepared.start.fingerprint},
            "data": {
                task: data_facts(task, tables, self._rows_used(task)) for task, tables in self.prepared.tables.items()
            },
            "versions": versions(),
            "stages": [first, *(self._row(stage) for stage in recipe.stages)],
        }
        self.experiment.folder.write_json("results.json", results)
        return results

    def _rows_used(self, task: str) -> int:
        return max((self._rows(stage) for stage in self.recipe.stages if task in stage.tasks), default=0)

    def _rows(self, stage: Stage) -> int:
        lengths = [len(self.prepared.tables[task]["train"]) for task in stage.tasks]
        return sum(min(length, stage.max_examples or length) for length in lengths)

    def _row(self, stage: Stage) -> dict[str, Any]:
        record, outcome = self.plan[stage.name], self._outcome(stage.name)
        facts: dict[str, Any] = {
            "trainer": record.trainer,
            "seed": self.recipe.seed,
            "objective": stage.objective,
            "train": stage.train,
            "from": record.parent,
            "status": "finished" if outcome else record.status,
            "workers": record.workers,
            "rows": self._rows(stage),
            "log": record.log,
        }
        if outcome:
            facts |= {
                key: outcome[key] for key in ("epochs", "steps", "seconds", "examples_per_second", "metrics", "why")
            }
            facts["bundle"] = f"{record.trainer}/bundle"
        return row(stage.name, **facts)


def _to_predict(caches: dict[str, dict[Split, str]]) -> dict[str, dict[Split, str]]:
    """What a finished recipe predicts: dev and, where there is one, test."""
    return {
        task: {split: path for split, path in splits.items() if split != "train"} for task, splits in caches.items()
    }
