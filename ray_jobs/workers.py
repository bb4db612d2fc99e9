"""`--workers N`: a stage on N Ray workers, one TorchTrainer a stage, gradients averaged by DDP.

The driver talks with the workers through one small actor, the Board: rank 0 posts its progress there and
learns whether to stop. All else goes through the storage.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from lightning_modules.progress import Interrupted, Progress
from multitask.errors import UserError
from multitask.experiment import StageJob
from multitask.storage import Storage
from ray_jobs.board import Board
from ray_jobs.screen import Screen
from ray_jobs.stopping import WAITER, StopRequest, waits_for_ray

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0  # for the workers to save and leave after a stop was asked for
MAX_FAILURES = 3


def worker_loop(config: dict[str, Any]) -> None:
    """What each Ray worker runs: one rank of the stage.

    Errors that would come again are posted on the board and end the run; any other one lets Ray start the workers
    again, which go on from the newest checkpoint.
    """
    import ray
    import ray.train
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from lightning_modules.base import NonFiniteLoss
    from lightning_modules.run import run_stage
    from lightning_modules.trainer import Execution, quiet_libraries
    from multitask.experiment import Superseded

    quiet_libraries()
    board = config["board"]
    execution = Execution(
        accelerator=config["accelerator"],
        devices="auto",
        strategy=RayDDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True),
        plugins=[RayLightningEnvironment()],
    )
    try:
        run_stage(StageJob(**config["job"]), execution, lambda line: ray.get(board.post.remote(line.to_json())))
    except Interrupted:
        return
    except (UserError, NonFiniteLoss, Superseded) as error:
        kind = "UserError" if isinstance(error, UserError) else type(error).__name__
        ray.get(board.fail.remote(kind, str(error)))
        return
    ray.train.report({"finished": True})


class RayRunner:
    """Ray for the length of an experiment: the cluster this driver runs in, or a local one that ends with it."""

    def __init__(self, workers: int, screen: Screen, stop: StopRequest) -> None:
        self.workers, self.screen, self.stop = workers, screen, stop

    def __enter__(self) -> RayRunner:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean the same everywhere
        self.screen.say(f"starting Ray for {self.workers} workers ...")
        here = not os.environ.get("RAY_ADDRESS")
        cores = os.cpu_count() or 1
        self.cpus = max(1, cores // self.workers) if here else 1
        ray.init(
            address="local" if here else None,  # None is the cluster of RAY_ADDRESS
            num_cpus=max(cores, self.workers) if here else None,
            log_to_driver=True,
            logging_level=logging.WARNING,
        )
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.use_gpu = gpus >= self.workers
        self.screen.say(f"{self.workers} workers on {'a GPU each' if self.use_gpu else f'CPUs (GPUs found: {gpus})'}")
        # On the driver's own node: the loss of another one must not end the driver.
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.board = ray.remote(num_cpus=0, scheduling_strategy=node)(Board).remote()
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if not waits_for_ray():
            ray.shutdown()

    def run(self, job: StageJob) -> None:
        """Raises what ended the stage: Interrupted, a UserError, or the worker's failure."""
        thread = threading.Thread(target=self._fit, args=(job,), name=WAITER, daemon=True)
        self._error: BaseException | None = None
        thread.start()
        asked_at, failure = None, None
        while thread.is_alive() and not failure:  # a rank that failed may leave others waiting for it
            thread.join(POLL_SECONDS)
            failure = self._look(job)
            if self.stop.asked:
                asked_at = asked_at or time.monotonic()
                if time.monotonic() - asked_at > GRACE_SECONDS:
                    raise Interrupted(job.trainer)
        if failure:
            thread.join(GRACE_SECONDS)
            kind, message = failure
            raise UserError(message) if kind == "UserError" else RuntimeError(f"{kind}: {message}")
        if self._error:
            raise self._error
        if self.stop.asked and not job.folder.exists("outcome.json"):
            raise Interrupted(job.trainer)

    def _look(self, job: StageJob) -> tuple[str, str] | None:
        import ray

        line, failure = ray.get(self.board.peek.remote(self.stop.asked))
        if line and line["stage"] == job.stage["name"]:
            self.screen.progress(Progress(**line))
        return failure

    def _fit(self, job: StageJob) -> None:
        try:
            self._trainer(job).fit()
        except Exception as error:
            self._error = error

    def _trainer(self, job: StageJob) -> Any:
        from pyarrow.fs import FSSpecHandler, PyFileSystem
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        storage = Storage(job.storage)
        return TorchTrainer(
            worker_loop,
            train_loop_config={
                "job": job.to_json(),
                "board": self.board,
                "accelerator": "gpu" if self.use_gpu else "cpu",
            },
            scaling_config=ScalingConfig(
                num_workers=self.workers,
                use_gpu=self.use_gpu,
                resources_per_worker={"CPU": self.cpus},
            ),
            run_config=RunConfig(
                name=job.trainer,
                storage_path=storage.full(f"{job.experiment}/.ray"),
                storage_filesystem=PyFileSystem(FSSpecHandler(storage.fs)),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                logging_config=LoggingConfig(log_level="WARNING"),
            ),
        )
