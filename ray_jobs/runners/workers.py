"""`--workers N`: an experiment's stages on N Ray workers, one after the other, gradients averaged by DDP.

There is one TorchTrainer an experiment, not one a stage: starting workers costs more than many a stage does. The
workers ask the Board, a small actor beside the driver, for their next job, post their progress there and learn
whether to stop. All else goes through the storage.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from lightning_modules.progress import Interrupted, Progress
from multitask.errors import UserError
from multitask.experiment.fence import Superseded
from multitask.experiment.records import Record
from multitask.experiment.stage_job import StageJob
from multitask.tasks.faults import OwnCodeError
from ray_jobs.importing import import_torchmetrics
from ray_jobs.options import Workers
from ray_jobs.runners.board import Board, News
from ray_jobs.runners.cluster import Cluster, scaling
from ray_jobs.runners.ends import End, noted, pass_on, telling, watcher
from ray_jobs.runners.memory import keep_memory
from ray_jobs.screen import Screen
from ray_jobs.stopping import WAITER, StopRequest

POLL_SECONDS = 0.5
GRACE_SECONDS = 15.0  # for the workers to save and leave after a stop was asked for; clouds give 30 in all
WAIT_SECONDS = 60.0  # without a sign of the workers until the user is told what they may be waiting for


def worker_loop(config: dict[str, Any]) -> None:
    """Runs in each Ray worker: one rank of every stage, until there is no job any more."""
    import ray
    import ray.train

    board, number = config["board"], 0
    context = ray.train.get_context()
    with telling(board), noted(board, "", rank := context.get_world_rank()):
        if rank == 0:
            ray.get(board.begin.remote(context.get_world_size()))
        while offer := ray.get(board.next.remote(number)):
            number, job = offer
            if not one_stage(StageJob.of(job), execution(config, board.excuse.remote), board):
                return
            if rank == 0:
                ray.get(board.finish.remote(number))


def one_stage(job: StageJob, execution: Any, board: Any) -> bool:
    """Runs a stage, or this rank of it; returns whether it came to its end.

    Errors that would come again are posted on the board and end the run. Any other one lets Ray start the workers
    again, which go on from the newest checkpoint, unless it has come again (ray_jobs/runners/board.py).
    """
    import ray

    from lightning_modules.module import NonFiniteLoss
    from lightning_modules.run import quiet_libraries, run_stage

    quiet_libraries()

    def post(progress: Progress) -> bool:
        return bool(ray.get(board.post.remote(progress.to_json() | {"label": job.label, "shown": job.shown})))

    try:
        run_stage(job, execution, post)
        return True
    except Interrupted:
        return False
    except (UserError, NonFiniteLoss, Superseded) as error:
        if isinstance(error, OwnCodeError):  # the user wants to see where; the run's log has what workers print
            traceback.print_exception(error)
        kind = "UserError" if isinstance(error, UserError) else type(error).__name__
        ray.get(board.fail.remote(job.label, kind, str(error)))
    return False


def execution(
    config: dict[str, Any], excuse: Callable[[], Any], measured: Callable[[Record], None] = lambda record: None
) -> Any:
    """How a stage is executed on Ray workers; for one stage, since Lightning's strategies are used once.

    excuse: called when a worker's node is being taken away. measured: called with each record of dev metrics.
    """
    import ray.train

    keep_memory()
    import_torchmetrics()
    from lightning_modules.run import Execution
    from ray_jobs.runners.strategy import WorkerEnvironment, WorkerStrategy

    def leaving() -> bool:
        if ray.train.get_preemption_info() is None:
            return False
        excuse()
        return True

    return Execution(
        accelerator=config["accelerator"],
        devices="auto",
        strategy=WorkerStrategy(find_unused_parameters=False, gradient_as_bucket_view=True),
        plugins=[WorkerEnvironment()],
        leaving=leaving,
        measured=measured,
    )


class RayRunner:
    """The workers of an experiment, from its first stage to its end. sweeps: whether sweeps amid it share its Ray."""

    def __init__(self, workers: Workers, screen: Screen, stop: StopRequest, sweeps: bool = False) -> None:
        self.cluster, self.screen, self.stop = Cluster(workers, screen, silent=True, dashboard=sweeps), screen, stop
        self.thread: threading.Thread | None = None
        self.board: Any = None
        self._error: BaseException | None = None
        self._gave_up, self._starts = False, 0
        self._ends: list[End] = []  # of the workers that ended last
        self._seen: tuple[Progress | None, float] = (None, 0.0)

    def __enter__(self) -> RayRunner:
        cluster = self.cluster.__enter__()
        self.screen.note(f"{cluster.span} workers on {cluster.devices()}")
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
        self.cluster.__exit__(*error)

    def release(self) -> None:
        """Lets the workers go; the next stage starts new ones."""
        if self.thread:
            self.board.close.remote()
            self.thread.join(3 * POLL_SECONDS if self._gave_up else GRACE_SECONDS)
            self.thread = None

    def run(self, job: StageJob) -> int:
        """Runs a stage to its end; returns the number of workers.

        Raises what ended it: Interrupted, a UserError, Superseded, the workers' failure.
        """
        import ray

        thread = self.thread or self._start()
        number: int = ray.get(self.board.offer.remote(job.to_json()))
        asked_at = None
        while True:
            thread.join(POLL_SECONDS)
            alive = thread.is_alive()  # before looking: what the workers did last is on the board
            news = self._look(job)
            if news.failure:
                self.release()  # a rank that failed may leave others waiting for it: they get some seconds
                raise self._failed(*news.failure)
            if news.finished >= number:
                return news.workers
            if not alive:
                raise Interrupted(job.owner.trainer) if self.stop.asked or not self._error else self._error
            if self.stop.asked:
                asked_at = asked_at or time.monotonic()
                if time.monotonic() - asked_at > GRACE_SECONDS:
                    self._gave_up = True
                    raise Interrupted(job.owner.trainer)

    def _failed(self, kind: str, message: str) -> Exception:
        """The error of that kind, with the traceback of the worker that met it."""
        if kind == "UserError":
            return UserError(message)
        if kind == "Superseded":
            return Superseded(message)
        error = RuntimeError(f"{kind}: {message}")
        for trace in {end.trace for end in self._ends if end.kind == kind and end.trace}:
            error.add_note(f"In a worker:\n{trace}")
        return error

    def _start(self) -> threading.Thread:
        self.board, self._error = self.cluster.actor(Board), None
        self._seen, self._starts = (None, time.monotonic()), 1
        self.thread = threading.Thread(target=self._fit, name=WAITER, daemon=True)
        self.thread.start()
        return self.thread

    def _look(self, job: StageJob) -> News:
        import ray

        news: News = ray.get(self.board.peek.remote(self.stop.asked))
        pass_on(news.said, news.ends)
        self._ends = news.ends or self._ends
        if news.starts > self._starts:
            self._starts = news.starts
            self.screen.say(f"{news.trouble}; {news.workers} workers started again, from the newest checkpoint")
        line = Progress.of(news.line) if news.line and news.line["label"] == job.label else None
        if line and line != self._seen[0]:
            self.screen.progress(line)
            self._seen = (line, time.monotonic())
        elif time.monotonic() - self._seen[1] > WAIT_SECONDS:
            self._seen = (self._seen[0], time.monotonic())
            self.screen.say(f"no sign of the workers for {WAIT_SECONDS:.0f} s; {self.cluster.room()}")
        return news

    def _fit(self) -> None:
        try:
            self._trainer().fit()
        except Exception as error:
            self._error = error

    def _trainer(self) -> Any:
        from ray.train import FailureConfig, LoggingConfig, RunConfig

        return self.cluster.trainer_class()(
            worker_loop,
            train_loop_config={"board": self.board, "accelerator": self.cluster.accelerator},
            scaling_config=scaling(**self.cluster.facts()),
            run_config=RunConfig(
                storage_path=self.cluster.files,
                failure_config=FailureConfig(max_failures=-1, max_preemption_failures=-1),  # the board counts
                logging_config=LoggingConfig(log_level="WARNING"),
                callbacks=[watcher(self.board, "")],
            ),
        )
