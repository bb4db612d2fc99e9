"""A sweep's trials on Ray Tune: each is a stage like any other, in a process of its own or on its own Ray workers.

Nothing of Tune is kept: when the sweep is run again, a trial that has finished tells its stored metrics, and any
other goes on from its own checkpoints. Tuner.restore would unpickle what lies in the storage.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_modules.progress import Progress
from multitask.errors import UserError
from multitask.experiment.experiment_file import Status
from multitask.experiment.fence import Superseded
from multitask.experiment.records import Record, read_records
from multitask.experiment.stage_job import StageJob, read_outcome
from multitask.measure.metrics import lower_is_better
from multitask.recipe.settings import Sweep
from multitask.storage.owners import kept_in
from ray_jobs.importing import import_torchmetrics
from ray_jobs.options import Workers
from ray_jobs.runners.board import Board, News
from ray_jobs.runners.cluster import Cluster, scaling
from ray_jobs.runners.ends import noted, pass_on, telling, watcher
from ray_jobs.runners.memory import keep_memory
from ray_jobs.runners.workers import GRACE_SECONDS, POLL_SECONDS, execution, one_stage
from ray_jobs.screen import Screen
from ray_jobs.stopping import WAITER, StopRequest

MAX_FAILURES = 3  # of a trial's process
REDUCTION = 3  # ASHA: one in three goes on at each rung; rungs are the ends of epochs 1, 3, 9, ...
DIVERGED = "NonFiniteLoss"
TRIAL_MEMORY = 2.0**20  # what a trial asks for whose work its workers do: a CPU would be missing on a small machine


@dataclass(frozen=True)
class Trainable:
    """A sweep's trials as Ray Tune runs them, each in a process of its own."""

    jobs: dict[str, dict[str, Any]]
    """Label of a trial -> its StageJob as JSON."""
    scaling: dict[str, Any]
    """The workers of a trial, as `scaling` takes them; without any, a trial runs in Tune's process."""
    accelerator: str
    """What the workers train on: gpu or cpu."""
    device: str
    """--device, for a trial in Tune's process."""
    board: Any
    """The actor of the sweep's Board."""

    def run(self, config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        job = StageJob.of(self.jobs[config["trial"]])
        for record in read_records(job.folder):
            _tell_tune(job, record)
        if read_outcome(job.folder) is None and not ray.get(self.board.stopping.remote()):
            if self.scaling["high"]:
                self._on_workers(job)
            else:
                self._here(job)
        if read_outcome(job.folder) is not None and (facts := _facts(job, read_records(job.folder)[-1])):
            tune.report(facts)  # only now: Tune may stop a trial at its last epoch, before its bundle is there

    def _here(self, job: StageJob) -> None:
        import ray

        keep_memory()
        import_torchmetrics()
        from lightning_modules.run import Execution

        board, execution = self.board, Execution(self.device, measured=partial(_tell_tune, job))
        try:
            with telling(board), noted(board, job.label, 0):
                one_stage(job, execution, board)
        except Exception:
            if ray.get(board.ended.remote(job.label, [])):
                raise  # Tune starts it again

    def _on_workers(self, job: StageJob) -> None:
        import ray
        from ray.train import FailureConfig, LoggingConfig, RunConfig
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        with tempfile.TemporaryDirectory(prefix=kept_in("ray"), ignore_cleanup_errors=True) as files:
            trainer = TorchTrainer(
                trial_loop,
                train_loop_config={"job": job.to_json(), "board": self.board, "accelerator": self.accelerator},
                scaling_config=scaling(**self.scaling),
                run_config=RunConfig(
                    storage_path=files,
                    callbacks=[TuneReportCallback(), watcher(self.board, job.label)],
                    failure_config=FailureConfig(max_failures=MAX_FAILURES, max_preemption_failures=-1),
                    logging_config=LoggingConfig(log_level="WARNING"),
                ),
            )
            try:
                trainer.fit()
            except Exception:
                if not ray.get(self.board.failed.remote(job.label)):
                    raise  # Tune starts it again


def trial_loop(config: dict[str, Any]) -> None:
    """Runs one rank of a trial. All ranks report to Ray what was measured; the trial hands it on to Tune.

    A rank that fails alone leaves the others waiting for it: its error makes Ray end them all.
    """
    import ray
    import ray.train

    job, board = StageJob.of(config["job"]), config["board"]
    if ray.get(board.failed.remote(job.label)):
        return

    def measured(record: Record) -> None:
        if _amid(job, record) and (facts := _facts(job, record)):
            ray.train.report(facts)

    with telling(board), noted(board, job.label, ray.train.get_context().get_world_rank()):
        ended = one_stage(job, execution(config, lambda: None, measured), board)
    if not ended and not ray.get(board.stopping.remote()):
        raise RuntimeError(f"{job.label}: failed, as was told")


def _tell_tune(job: StageJob, record: Record) -> None:
    from ray import tune

    if _amid(job, record) and (facts := _facts(job, record)):
        tune.report(facts)


def _amid(job: StageJob, record: Record) -> bool:
    """Whether a record is of an epoch after which more come."""
    return 0 < record.epoch < int(job.stage["epochs"])


def _facts(job: StageJob, record: Record) -> dict[str, float] | None:
    """The facts that Tune decides by; None where the metric could not be measured.

    ASHA's cut-off is an interpolated quantile: one infinite or missing score makes it NaN, by which no later trial is
    ever stopped. A trial without a score takes no part in that rung, and is compared by its next one.
    """
    value = record.metrics.get(job.by)
    if value is None or not math.isfinite(value):
        return None
    return {"epoch": record.epoch, job.by: value}


def run_trials(
    jobs: dict[str, StageJob],
    sweep: Sweep,
    stopped: list[str],
    workers: Workers,
    screen: Screen,
    stop: StopRequest,
    lags: Callable[[str], None],
) -> dict[str, Status]:
    """Runs a sweep's trials; returns label -> how the trial ended.

    It is finished, stopped (by ASHA), failed (its loss was no number any more) or interrupted. stopped: the labels of
    trials that were stopped before. lags: called with the label of each trial that is stopped, at once.

    Raises what ended a trial in another way, when the others have ended: run again, the sweep tries it again.
    """
    todo = {label: job for label, job in jobs.items() if label not in stopped}
    with Cluster(workers, screen, silent=True, dashboard=workers.high > 0) as cluster:
        ends = _Trials(todo, sweep, cluster, screen, stop, lags).run() if todo else {}
    before: dict[str, Status] = {label: "stopped" for label in stopped}
    return before | ends


def _hopeless(failures: dict[str, tuple[str, str]]) -> bool:
    """Whether a trial has met what the others will meet too: a mistake of the user's, a storage that is gone, a newer
    driver."""
    return any(kind in ("UserError", "Superseded") for kind, _ in failures.values())


class _Trials:
    """A run of Tune over a sweep's trials, in a thread beside the one that shows progress and listens for Ctrl-C."""

    def __init__(
        self,
        jobs: dict[str, StageJob],
        sweep: Sweep,
        cluster: Cluster,
        screen: Screen,
        stop: StopRequest,
        lags: Callable[[str], None],
    ) -> None:
        self.jobs, self.sweep, self.cluster, self.screen, self.stop = jobs, sweep, cluster, screen, stop
        self.lags, self._lagging = lags, frozenset[str]()
        self.board = cluster.actor(Board)
        self._grid: Any = None
        self._error: BaseException | None = None

    def run(self) -> dict[str, Status]:
        each, at_once = self._resources()
        self.screen.note(f"{len(self.jobs)} trials, {at_once} at a time")
        thread = threading.Thread(target=self._fit, args=(each, at_once), name=WAITER, daemon=True)
        thread.start()
        ends_at = math.inf
        while thread.is_alive() and time.monotonic() < ends_at:
            thread.join(POLL_SECONDS)
            news = self._look()
            if self.stop.asked or _hopeless(news.failures):
                ends_at = min(ends_at, time.monotonic() + GRACE_SECONDS)
        news = self._look()
        failures = {**self._errors(), **news.failures}
        for label, (kind, message) in failures.items():
            if kind != "Superseded":  # of all trials alike: said once, by the command
                self.screen.say(f"{label}: failed: {message}")
        if not self.stop.asked:
            self._raise(failures)
        return {label: self._end(label, job, failures) for label, job in self.jobs.items()}

    def _look(self) -> News:
        """Shows progress, passes a stop on, and tells the driver of trials that are stopped."""
        import ray

        news: News = ray.get(self.board.peek.remote(self.stop.asked))
        pass_on(news.said, news.ends)
        if news.ends:
            self.screen.say(f"{news.trouble}; its trial goes on from its newest checkpoint, if that may help")
        if _hopeless(news.failures):
            news = ray.get(self.board.peek.remote(True))
        if news.line:
            self.screen.progress(Progress.of(news.line))
        for label in news.stopped - self._lagging:
            if read_outcome(self.jobs[label].folder) is None:
                self.screen.note(f"{label}: lags behind, stopped")
                self.lags(label)
        self._lagging = news.stopped
        return news

    def _errors(self) -> dict[str, tuple[str, str]]:
        """Label -> kind and message of what ended a trial that could not tell it itself."""
        results = self._grid or []
        return {result.config["trial"]: ("Error", str(result.error)) for result in results if result.error}

    def _raise(self, failures: dict[str, tuple[str, str]]) -> None:
        """Raises what ended a trial, but for a loss that is no number any more: that is a result of its settings."""
        if self._error and not failures:
            raise self._error
        for label, (kind, message) in failures.items():
            if kind != DIVERGED and read_outcome(self.jobs[label].folder) is None:
                known = {"UserError": UserError, "Superseded": Superseded}
                raise known[kind](message) if kind in known else RuntimeError(f"{label}: {kind}: {message}")

    def _end(self, label: str, job: StageJob, failures: dict[str, tuple[str, str]]) -> Status:
        ended_well = not self.stop.asked and label not in failures and label not in self._lagging
        if read_outcome(job.folder, wait=ended_well) is not None:
            return "finished"
        if label in self._lagging:
            return "stopped"
        return "interrupted" if self.stop.asked and label not in failures else "failed"

    def _resources(self) -> tuple[dict[str, float], int]:
        """The resources that a trial itself asks for, and how many run at a time: as many as have room for workers."""
        import ray

        cluster, found = self.cluster, ray.cluster_resources()
        kind = "GPU" if cluster.use_gpu else "CPU"
        there = max(1, int(found.get(kind, 1)))
        if cluster.high:
            need = cluster.low * (1 if cluster.use_gpu else cluster.cpus)
            return {"memory": TRIAL_MEMORY}, max(1, min(len(self.jobs), there // max(1, need)))
        at_once = min(len(self.jobs), there)
        cpus = max(1, int(found.get("CPU", 1)) // at_once)
        return {"CPU": cpus, "GPU": int(cluster.use_gpu)}, at_once

    def _fit(self, each: dict[str, float], at_once: int) -> None:
        try:
            self._grid = self._tuner(each, at_once).fit()
        except Exception as error:
            self._error = error

    def _tuner(self, each: dict[str, float], at_once: int) -> Any:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the driver's
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one names a folder that is gone in the end
        by, epochs = self.sweep.by, max(job.stage["epochs"] for job in self.jobs.values())
        board = self.board

        class Asha(ASHAScheduler):
            """ASHA that tells the board whom it stops: Tune's own result does not say why a trial ended."""

            def on_trial_result(self, controller: Any, trial: Any, result: Any) -> str:
                decision = str(super().on_trial_result(controller, trial, result))
                if decision == self.STOP:
                    board.lags.remote(trial.config["trial"])
                return decision

        asha = Asha(time_attr="epoch", max_t=epochs, grace_period=1, reduction_factor=REDUCTION)
        jobs = {label: job.to_json() for label, job in self.jobs.items()}
        trainable = Trainable(jobs, self.cluster.facts(), self.cluster.accelerator, self.cluster.device, self.board)
        return tune.Tuner(
            tune.with_resources(partial(Trainable.run, trainable), each),
            param_space={"trial": tune.grid_search(list(self.jobs))},
            tune_config=tune.TuneConfig(
                metric=by,
                mode="min" if lower_is_better(by) else "max",
                scheduler=asha if self.sweep.asha else None,
                max_concurrent_trials=at_once,
            ),
            run_config=tune.RunConfig(
                storage_path=self.cluster.files,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )
