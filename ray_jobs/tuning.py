"""A sweep's trials on Ray Tune: each is a stage like any other, in a process of its own or on its own Ray workers.

Nothing of Tune is kept: when the sweep is run again, a trial that has finished tells its stored metrics, and any
other goes on from its own checkpoints. Tuner.restore would unpickle what lies in the storage (DESIGN rule 7).
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_modules.progress import Progress
from lightning_modules.records import Record, read_records
from multitask.experiment import OUTCOME, StageJob, Status
from multitask.metrics import LOWER_IS_BETTER
from multitask.recipe import Sweep
from ray_jobs.board import Board
from ray_jobs.cluster import Cluster, scaling
from ray_jobs.screen import Screen
from ray_jobs.stopping import WAITER, StopRequest
from ray_jobs.workers import GRACE_SECONDS, POLL_SECONDS, execution, one_stage

MAX_FAILURES = 3  # of a trial's process
REDUCTION = 3  # ASHA: one in three goes on at each rung; rungs are the ends of epochs 1, 3, 9, ...
TRIAL_MEMORY = 2.0**20  # what a trial asks for whose work its workers do: a CPU would be missing on a small machine


@dataclass(frozen=True)
class Trainable:
    """What Tune runs of a trial. jobs: label -> its StageJob as JSON. scaling: of its workers; none is this process."""

    jobs: dict[str, dict[str, Any]]
    scaling: dict[str, Any]
    accelerator: str
    board: Any

    def __call__(self, config: dict[str, Any]) -> None:
        import ray

        job = StageJob(**self.jobs[config["trial"]])
        for record in read_records(job.folder):
            _tell_tune(job, record)
        if job.folder.exists(OUTCOME) or ray.get(self.board.stopping.remote()):
            return
        if self.scaling["high"]:
            self._on_workers(job)
        else:
            self._here(job)

    def _here(self, job: StageJob) -> None:
        from lightning_modules.trainer import Execution

        one_stage(job, Execution(measured=partial(_tell_tune, job)), self.board)

    def _on_workers(self, job: StageJob) -> None:
        from ray.train import FailureConfig, LoggingConfig, RunConfig
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        with tempfile.TemporaryDirectory(prefix="minibert-ray-", ignore_cleanup_errors=True) as files:
            TorchTrainer(
                trial_loop,
                train_loop_config={"job": job.to_json(), "board": self.board, "accelerator": self.accelerator},
                scaling_config=scaling(**self.scaling),
                run_config=RunConfig(
                    storage_path=files,
                    callbacks=[TuneReportCallback()],
                    failure_config=FailureConfig(max_failures=MAX_FAILURES, max_preemption_failures=-1),
                    logging_config=LoggingConfig(log_level="WARNING"),
                ),
            ).fit()


def trial_loop(config: dict[str, Any]) -> None:
    """One rank of a trial. All ranks report to Ray what was measured; the trial hands it on to Tune."""
    import ray.train

    job = StageJob(**config["job"])

    def measured(record: Record) -> None:
        if record.epoch:
            ray.train.report(_facts(job, record))

    one_stage(job, execution(config, lambda: None, measured), config["board"])


def _tell_tune(job: StageJob, record: Record) -> None:
    from ray import tune

    if record.epoch:
        tune.report(_facts(job, record))


def _facts(job: StageJob, record: Record) -> dict[str, float]:
    """What Tune decides by; a metric that could not be measured is as bad as can be."""
    value = record.metrics.get(job.by)
    worst = math.inf if job.by in LOWER_IS_BETTER else -math.inf
    return {"epoch": record.epoch, job.by: worst if value is None else value}


def run_trials(
    jobs: dict[str, StageJob],
    sweep: Sweep,
    stopped: list[str],
    workers: tuple[int, int],
    screen: Screen,
    stop: StopRequest,
) -> dict[str, Status]:
    """Label -> how the trial ended: finished, stopped (by ASHA), failed, or interrupted. stopped: those of before."""
    todo = {label: job for label, job in jobs.items() if label not in stopped}
    with Cluster(workers, screen) as cluster:
        ends = _Trials(todo, sweep, cluster, screen, stop).run() if todo else {}
    before: dict[str, Status] = {label: "stopped" for label in stopped}
    return before | ends


class _Trials:
    """One go at a sweep, in a thread beside the one that shows its progress and listens for Ctrl-C."""

    def __init__(
        self, jobs: dict[str, StageJob], sweep: Sweep, cluster: Cluster, screen: Screen, stop: StopRequest
    ) -> None:
        self.jobs, self.sweep, self.cluster, self.screen, self.stop = jobs, sweep, cluster, screen, stop
        self.board = cluster.actor(Board)
        self._grid: Any = None
        self._error: BaseException | None = None

    def run(self) -> dict[str, Status]:
        import ray

        each, at_once = self._resources()
        self.screen.say(f"{len(self.jobs)} trials, {at_once} at a time")
        thread = threading.Thread(target=self._fit, args=(each, at_once), name=WAITER, daemon=True)
        thread.start()
        asked_at = None
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            news = ray.get(self.board.peek.remote(self.stop.asked))
            if news.line:
                self.screen.progress(Progress.of(news.line))
            if self.stop.asked:
                asked_at = asked_at or time.monotonic()
                if time.monotonic() - asked_at > GRACE_SECONDS:
                    break
        if self._error and not self.stop.asked:
            raise self._error
        failures = ray.get(self.board.peek.remote(self.stop.asked)).failures
        for label, message in failures.items():
            self.screen.say(f"{label}: failed: {message}")
        return {label: self._end(label, job, failures) for label, job in self.jobs.items()}

    def _end(self, label: str, job: StageJob, failures: dict[str, str]) -> Status:
        if job.folder.exists(OUTCOME):
            return "finished"
        if label in failures:
            return "failed"
        if self.stop.asked:
            return "interrupted"
        errors = {result.config["trial"] for result in self._grid if result.error} if self._grid else set(self.jobs)
        return "failed" if label in errors else "stopped"

    def _resources(self) -> tuple[dict[str, float], int]:
        """What a trial itself asks for, and how many run at a time: so many that all their workers have room."""
        import ray

        cluster, found = self.cluster, ray.cluster_resources()
        kind = "GPU" if cluster.gpus else "CPU"
        there = max(1, int(found.get(kind, 1)))
        if cluster.high:
            need = cluster.low * (1 if cluster.use_gpu else cluster.cpus)
            return {"memory": TRIAL_MEMORY}, max(1, min(len(self.jobs), there // max(1, need)))
        at_once = min(len(self.jobs), there)
        cpus = max(1, int(found.get("CPU", 1)) // at_once)
        return {"CPU": cpus, "GPU": 1 if cluster.gpus else 0}, at_once

    def _fit(self, each: dict[str, float], at_once: int) -> None:
        try:
            self._grid = self._tuner(each, at_once).fit()
        except Exception as error:
            self._error = error

    def _tuner(self, each: dict[str, float], at_once: int) -> Any:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is the driver's
        by, epochs = self.sweep.by, max(job.stage["epochs"] for job in self.jobs.values())
        asha = ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=1, reduction_factor=REDUCTION)
        jobs = {label: job.to_json() for label, job in self.jobs.items()}
        trainable = Trainable(jobs, self.cluster.facts(), self.cluster.accelerator, self.board)
        return tune.Tuner(
            tune.with_resources(partial(_call, trainable), each),
            param_space={"trial": tune.grid_search(list(self.jobs))},
            tune_config=tune.TuneConfig(
                metric=by,
                mode="min" if by in LOWER_IS_BETTER else "max",
                scheduler=asha if self.sweep.asha else None,
                max_concurrent_trials=at_once,
            ),
            run_config=tune.RunConfig(
                storage_path=self.cluster.files,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )


def _call(trainable: Trainable, config: dict[str, Any]) -> None:
    trainable(config)
