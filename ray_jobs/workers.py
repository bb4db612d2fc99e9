"""`--workers N`: an experiment's stages on N Ray workers, one after the other, gradients averaged by DDP.

There is one TorchTrainer an experiment, not one a stage: starting workers costs more than many a stage does. The
workers ask the Board, a small actor beside the driver, for their next job, post their progress there and learn
whether to stop. All else goes through the storage.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from typing import Any

from lightning_modules.progress import Interrupted, Progress
from multitask.errors import UserError
from multitask.experiment import StageJob
from ray_jobs.board import Board, News
from ray_jobs.screen import Screen
from ray_jobs.stopping import WAITER, StopRequest, waits_for_ray

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0  # for the workers to save and leave after a stop was asked for
WAIT_SECONDS = 60.0  # without a sign of the workers until the user is told what they may be waiting for
RESIZE_SECONDS = 60.0  # between two looks at whether an elastic run can have more workers


def worker_loop(config: dict[str, Any]) -> None:
    """What each Ray worker runs: one rank of every stage.

    Errors that would come again are posted on the board and end the run; any other one lets Ray start the workers
    again, which go on from the newest checkpoint.
    """
    import ray
    import ray.train

    from lightning_modules.base import NonFiniteLoss
    from lightning_modules.run import run_stage
    from lightning_modules.trainer import quiet_libraries
    from multitask.experiment import Superseded

    quiet_libraries()
    board, number = config["board"], 0
    first = ray.train.get_context().get_world_rank() == 0
    if first:
        ray.get(board.begin.remote(ray.train.get_context().get_world_size()))
    try:
        while offer := ray.get(board.next.remote(number)):
            number, job = offer
            run_stage(
                StageJob(**job), _execution(config), lambda line: bool(ray.get(board.post.remote(line.to_json())))
            )
            if first:
                ray.get(board.finish.remote(number))
    except Interrupted:
        if not ray.get(board.stopping.remote()):  # a SIGTERM to this worker alone, as before a spot machine's end
            raise
    except (UserError, NonFiniteLoss, Superseded) as error:
        ray.get(board.fail.remote(type(error).__name__, str(error)))
    except Exception as error:
        ray.get(board.note.remote(f"{type(error).__name__}: {error}"))
        raise


def _execution(config: dict[str, Any]) -> Any:
    """One stage's: Lightning's strategies are used once."""
    import ray
    import ray.train
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from lightning_modules.trainer import Execution

    def leaving() -> bool:
        if ray.train.get_preemption_info() is None:
            return False
        config["board"].excuse.remote()
        return True

    return Execution(
        accelerator=config["accelerator"],
        devices="auto",
        strategy=RayDDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True),
        plugins=[RayLightningEnvironment()],
        leaving=leaving,
    )


class RayRunner:
    """Ray for the length of an experiment: the cluster this driver runs in, or a local one that ends with it.

    workers: (fewest, most). The number is fixed where they are equal, else as many as there is room for.
    """

    def __init__(self, workers: tuple[int, int], screen: Screen, stop: StopRequest) -> None:
        (self.low, self.high), self.screen, self.stop = workers, screen, stop
        self.thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._seen: tuple[Progress | None, float] = (None, time.monotonic())

    def __enter__(self) -> RayRunner:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean the same everywhere
        span = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        self.screen.say(f"starting Ray for {span} workers ...")
        here = not os.environ.get("RAY_ADDRESS")
        cores = os.cpu_count() or 1
        self.cpus = max(1, cores // self.high) if here else 1
        ray.init(
            address="local" if here else None,  # None is the cluster of RAY_ADDRESS
            num_cpus=max(cores, self.low) if here else None,
            log_to_driver=True,
            logging_level=logging.WARNING,
        )
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.use_gpu = gpus >= self.low
        self.screen.say(f"{span} workers on {'a GPU each' if self.use_gpu else f'CPUs (GPUs found: {gpus})'}")
        # On the driver's own node: the loss of another one must not end the driver.
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = ray.remote(num_cpus=0, scheduling_strategy=node)(Board).remote()
        # Ray's own bookkeeping stays with the driver: nothing in it is needed to go on.
        self._ray_files = tempfile.TemporaryDirectory(prefix="minibert-ray-", ignore_cleanup_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self.thread:
            self.board.close.remote()
            self.thread.join(GRACE_SECONDS)
        if not waits_for_ray():
            ray.shutdown()
        self._ray_files.cleanup()

    def run(self, job: StageJob) -> int:
        """Returns the number of workers. Raises what ended the stage: Interrupted, a UserError, their failure."""
        import ray

        if self.thread is None:
            self.thread = threading.Thread(target=self._fit, name=WAITER, daemon=True)
            self.thread.start()
        number: int = ray.get(self.board.offer.remote(job.to_json()))
        asked_at = None
        while True:
            self.thread.join(POLL_SECONDS)
            alive = self.thread.is_alive()  # before looking: what the workers did last is on the board
            news = self._look(job)
            if news.failure:
                self._raise(*news.failure)
            if news.finished >= number:
                return news.workers
            if not alive:
                raise self._error or Interrupted(job.trainer)
            if self.stop.asked:
                asked_at = asked_at or time.monotonic()
                if time.monotonic() - asked_at > GRACE_SECONDS:
                    raise Interrupted(job.trainer)

    def _raise(self, kind: str, message: str) -> None:
        """A rank that failed may leave others waiting for it: they get some seconds to end by themselves."""
        assert self.thread
        self.board.close.remote()
        self.thread.join(GRACE_SECONDS)
        raise UserError(message) if kind == "UserError" else RuntimeError(f"{kind}: {message}")

    def _look(self, job: StageJob) -> News:
        import ray

        news: News = ray.get(self.board.peek.remote(self.stop.asked))
        line = Progress(**news.line) if news.line and news.line["stage"] == job.stage["name"] else None
        if line and line != self._seen[0]:
            self.screen.progress(line)
            self._seen = (line, time.monotonic())
        elif time.monotonic() - self._seen[1] > WAIT_SECONDS:
            self._seen = (self._seen[0], time.monotonic())
            self.screen.say(f"no sign of the workers for {WAIT_SECONDS:.0f} s; {self._room()}")
        return news

    def _room(self) -> str:
        import ray

        found, free = ray.cluster_resources(), ray.available_resources()
        kind, each = ("GPU", 1) if self.use_gpu else ("CPU", self.cpus)
        return (
            f"{self.low} workers need {self.low * each} {kind}s, the cluster has {found.get(kind, 0):g}, "
            f"of which {free.get(kind, 0):g} are free"
        )

    def _fit(self) -> None:
        try:
            self._trainer().fit()
        except Exception as error:
            self._error = error

    def _trainer(self) -> Any:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        return TorchTrainer(
            worker_loop,
            train_loop_config={"board": self.board, "accelerator": "gpu" if self.use_gpu else "cpu"},
            scaling_config=ScalingConfig(
                num_workers=self.low if self.low == self.high else (self.low, self.high),
                use_gpu=self.use_gpu,
                resources_per_worker={"CPU": self.cpus},
                elastic_resize_monitor_interval_s=RESIZE_SECONDS,
            ),
            run_config=RunConfig(
                storage_path=self._ray_files.name,
                failure_config=FailureConfig(max_failures=-1, max_preemption_failures=-1),  # the board counts
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        )
