"""A job run by several ranks, each a process of its own."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import torch.multiprocessing as mp

from multitask.experiment.stage_job import StageJob
from ray_jobs.importing import import_torchmetrics


def run_ranks(*jobs: StageJob, world: int, stop_step: int | None = None) -> None:
    """Runs jobs in turn as `world` gloo ranks, each a process; rank 0 asks each to stop after `stop_step` steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, args=([job.to_json() for job in jobs], world, port, stop_step), nprocs=world)


def _rank(rank: int, jobs: list[dict[str, Any]], world: int, port: int, stop_step: int | None) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(world),
        "TORCHELASTIC_RUN_ID": "test",
    }
    import_torchmetrics()  # before Lightning, which is why the imports stand here
    import torch
    from pytorch_lightning.plugins.environments import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    from lightning_modules.progress import Interrupted
    from lightning_modules.run import Execution, quiet_libraries, run_stage
    from tests.helpers import go_on, stop_at

    torch.set_num_threads(1)
    quiet_libraries()
    report = stop_at(stop_step) if stop_step else go_on
    for job in jobs:
        strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=False)
        execution = Execution("cpu", world, strategy, [TorchElasticEnvironment()])
        with suppress(Interrupted):
            run_stage(StageJob.of(job), execution, report, every=0.0)
