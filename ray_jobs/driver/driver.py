"""The experiment's driver: runs the stages of its plan that are not finished, and writes what came of them.

There is no training here. A stage is a StageJob; a runner executes it in this process or on Ray workers, and
what it leaves in the storage is read from there.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import yaml

from lightning_modules.progress import Interrupted, Progress
from multitask.errors import StorageError, UserError
from multitask.experiment.experiment_file import Experiment, StageRecord
from multitask.experiment.fence import EXPERIMENT_FILE
from multitask.experiment.lease import Lease
from multitask.experiment.stage_job import TRAINER, StageJob
from multitask.recipe.sweeps import best
from multitask.storage.sealed import write_document
from multitask.storage.storage import Changed
from ray_jobs.driver.jobs import job_of
from ray_jobs.driver.ledger import results_of
from ray_jobs.driver.plan import Node, Plan
from ray_jobs.driver.prepare import Prepared, prepare
from ray_jobs.driver.ray_job import how_to_go_on, submission_id
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.driver.teachers import with_lessons
from ray_jobs.importing import import_torchmetrics, uncollected
from ray_jobs.logs import DriverLog
from ray_jobs.runners.tuning import run_trials
from ray_jobs.runners.workers import RayRunner
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from ray_jobs.trackers.base import Tracker
from ray_jobs.trackers.mirror import Mirror, tracker_of

if TYPE_CHECKING:
    from ray_jobs.runners.local import LocalRunner

log = logging.getLogger(__name__)

LONG_READING = 5.0  # seconds after which it is shown how far it is


def run_training(request: TrainingRequest, screen: Screen, stop: StopRequest | None = None) -> dict[str, Any] | None:
    """Runs an experiment or goes on with it; returns the results, None where the user stopped it.

    The request's log and submission id are set here. stop: what tells of the user's wish to stop; by signals, and with
    the command that goes on, unless given.
    """
    stop, storage = stop or StopRequest(how_to_go_on()), request.storage
    again = stop.how_to_go_on
    storage.probe()
    place = storage.at(request.experiment)
    trackers = [tracker_of(kind, place) for kind in request.trackers]
    with DriverLog(place) as driver_log, stop:
        storage.clean(request.experiment)
        try:
            request = replace(request, log=driver_log.path, submission_id=submission_id())
            driver = Driver(request, screen, trackers, stop)
            driver_log.fence = driver.check
            return driver.run(stop)
        except Interrupted:
            log.info("interrupted; what was saved is safe")
            screen.say(f"interrupted; what was saved is safe; {again}")
            return None


def _tell_reading(screen: Screen, stop: StopRequest | None, began: float, doing: str, rows: int, total: int) -> None:
    """Shows how far reading is once it takes long. Raises Interrupted where the user asks to stop: the files are read
    again then."""
    if stop and stop.asked:
        raise Interrupted("reading")
    if time.monotonic() - began > LONG_READING:
        screen.progress(Progress("reading", doing, 0, 0, rows, total))


class Driver:
    """One run of an experiment. Raises UserError before anything starts, Interrupted where the user stopped it."""

    def __init__(
        self,
        request: TrainingRequest,
        screen: Screen,
        trackers: Sequence[Tracker] = (),
        stop: StopRequest | None = None,
    ) -> None:
        self.request, self.recipe, self.storage = request, request.recipe, request.storage
        self.screen, self.trackers = screen, trackers
        screen.note("reading the data and the encoder ...")
        tell = partial(_tell_reading, screen, stop, time.monotonic())
        prepared = prepare(self.recipe, request.data, self.storage, tell)
        self.prepared: Prepared = with_lessons(self.recipe, request.data, self.storage, prepared, tell)
        self._read_experiment()

    def _read_experiment(self) -> None:
        self.experiment = Experiment(self.storage, self.request.experiment)
        self.plan = Plan(self.recipe, self.prepared, self.experiment, self.request.seeds)

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Runs every stage that is not finished, in the recipe's order; returns the results."""
        with Lease(self.experiment.place, self.screen.note, meanwhile=self._import_runner):
            if not self.experiment.place.caught_up(self._begin_attempt, bool):
                raise UserError(f"experiment {self.experiment.place.uri}: another driver writes it now; try again")
            with Mirror(self.experiment.folder, self.trackers):
                return self._run(stop)

    def _begin_attempt(self) -> bool:
        """Begins an attempt on the experiment as it stands now that it is ours alone.

        Returns False, and begins none, where what was read of the experiment is not the newest.
        """
        self._read_experiment()
        self.claim()
        recipe = yaml.safe_dump(self.recipe.model_dump(mode="json", by_alias=True), sort_keys=False).encode()
        self.experiment.recipe = hashlib.sha256(recipe).hexdigest()
        try:
            self.experiment.begin_attempt()
        except Changed:
            return False
        self._keep_recipe(recipe)
        return True

    def _keep_recipe(self, recipe: bytes) -> None:
        self.experiment.folder.write_bytes("recipe.yaml", recipe)

    def _run(self, stop: StopRequest) -> dict[str, Any]:
        self._tell_lost()
        self._reopen(self.plan.torn() | self.plan.stale())
        for node in self.plan.nodes:
            if self.plan.outcome(node):
                record = self.plan.records[node.key]
                record.status = "finished"
                self.screen.note(f"{node.key}: finished before, skipped ({record.trainer})")
        stages = [node for node in self.plan.nodes if not node.trial]
        self.experiment.save()
        self.write_results()  # of this attempt from now on
        if not stop.asked and not all(self.plan.outcome(node) for node in stages):
            with self._runner(stop) as runner:
                for node in stages:
                    if not stop.asked and not self.plan.outcome(node):
                        self._run_stage(node, runner)
                        self._reopen(self.plan.stale())
        if stop.asked and not all(self.plan.outcome(node) for node in stages):
            raise Interrupted(self.request.experiment)
        return self.write_results()

    def _tell_lost(self) -> None:
        """Folders of trainers that experiment.json does not know: it was removed, or is another's."""
        folder = self.experiment.folder
        if self.experiment.attempt == 1 and (lost := [name for name in folder.list() if name.startswith(TRAINER)]):
            log.warning(
                "%s: %d folders of trainers, %s first, of which no %s says anything; all is trained anew beside them",
                folder.uri, len(lost), lost[0], EXPERIMENT_FILE,
            )  # fmt: skip

    def _reopen(self, stages: dict[str, str]) -> None:
        """Has finished stages made again. stages: key -> why it is not finished after all."""
        for key, why in stages.items():
            log.warning("%s: finished before, but %s; made again", key, why)
            self.plan.reopen(key)

    def check(self) -> None:
        """The fence: raises Superseded where this driver's attempt was another's to go on with."""
        if self.experiment.writer:
            self.experiment.check()

    def claim(self) -> None:
        """Claims names and fingerprints of all nodes. Raises UserError for another stage under a known name."""
        self.plan.claim(self.request.fresh)

    def _import_runner(self) -> None:
        """Imports what stages run on, where one is left to run."""
        if {node.key for node in self.plan.nodes} <= self.experiment.finished():
            return
        if self.request.workers.high:
            import ray  # noqa: F401
        else:
            self._local_runner()

    def _runner(self, stop: StopRequest) -> LocalRunner | RayRunner:
        workers = self.request.workers
        if workers.high:
            return RayRunner(workers, self.screen, stop, sweeps=any(map(self.plan.trials, self.plan.nodes)))
        return self._local_runner()(workers.device, self.screen, stop, self.request.own_process)

    def _local_runner(self) -> type[LocalRunner]:
        """Lightning takes a second to import: not where workers do it."""
        with self._lightly():
            from ray_jobs.runners.local import LocalRunner

        return LocalRunner

    @contextmanager
    def _lightly(self) -> Iterator[None]:
        """Within it, Lightning is imported, as lightly as whose the process is allows."""
        if not self.request.own_process:
            yield
            return
        with uncollected():
            import_torchmetrics()
            yield

    def _run_stage(self, node: Node, runner: LocalRunner | RayRunner) -> None:
        trials = self.plan.trials(node)
        records = [self.plan.records[at.key] for at in (*trials, node)]
        for record in records:
            self._begin(record)
        self.experiment.save()
        self.write_results()
        log.info("stage %s: %s starts, attempt %s", node.key, records[-1].trainer or "a sweep", records[-1].attempt)
        try:
            if trials:
                self._sweep(node, trials, runner)
            else:
                records[-1].workers = runner.run(job_of(self.plan, node))
            if not self.plan.outcome(node, wait=True):
                raise RuntimeError(f"stage '{node.key}' ended without an outcome in {records[-1].trainer}")
        except BaseException as error:
            if isinstance(error, Exception):
                for record in records:
                    if record.status == "running":
                        record.status = "interrupted" if isinstance(error, Interrupted) else "failed"
            with suppress(StorageError):  # what ended the stage is what has to be said
                self._close()
            raise
        records[-1].status = "finished"
        self._close()

    def _close(self) -> None:
        self.screen.end_line()
        self.experiment.save()
        self.write_results()

    def _begin(self, record: StageRecord) -> None:
        if record.status not in ("finished", "stopped"):
            record.status, record.attempt = "running", self.experiment.attempt
            record.workers, record.log = self.request.workers.high, self.request.log
            record.submission_id = self.request.submission_id

    def _sweep(self, node: Node, trials: list[Node], runner: LocalRunner | RayRunner) -> None:
        """Trains what is left of a sweep's trials; its stage then is the best of those that have finished."""
        assert node.stage.sweep
        by, records = node.stage.sweep.by, self.plan.records
        jobs = {at.name: job_of(self.plan, at) for at in trials}
        runner.release()
        keys = {at.name: at.key for at in trials}
        stopped = [name for name, key in keys.items() if records[key].status == "stopped"]

        def lags(label: str) -> None:
            """Records that a trial was stopped as soon as it is: it stays so, whatever becomes of the others."""
            records[keys[label]].status = "stopped"
            self.experiment.save()

        ends = run_trials(jobs, node.stage.sweep, stopped, self.request.workers, self.screen, runner.stop, lags)
        for at in trials:
            outcome = self.plan.outcome(at, wait=ends[at.name] == "finished")
            records[at.key].status = "finished" if outcome else ends[at.name]
        if "interrupted" in ends.values():
            raise Interrupted(node.key)
        outcomes = {at.key: outcome for at in trials if (outcome := self.plan.outcome(at))}
        chosen = best({key: outcome["metrics"].get(by) for key, outcome in outcomes.items()}, by)
        if chosen is None:
            raise RuntimeError(f"sweep of '{node.key}': no trial has a value of {by}; they ended: {ends}")
        records[node.key].trainer = records[chosen].trainer
        self.screen.note(f"{node.key}: the best trial by {by} is {chosen}")
        self._tell_best(next(jobs[at.name] for at in trials if at.key == chosen), trials)

    def _tell_best(self, job: StageJob, trials: list[Node]) -> None:
        """Tells TensorBoard which trial is the best, as results.json does."""
        with self._lightly():
            from lightning_modules.summary import tell_best

        keys, rows = {(at.name, at.variant) for at in trials}, results_of(self.plan, self.request.experiment)["stages"]
        tell_best(job, [row for row in rows if (row["name"], row["variant"]) in keys])

    def write_results(self) -> dict[str, Any]:
        """Writes results.json as it stands, and returns it. Raises Superseded where another driver writes it now."""
        results = results_of(self.plan, self.request.experiment)
        write_document(self.experiment.folder, "results.json", results)
        return results
