"""Small stages for tests: a recipe of one stage on the sample data, run as one rank or as several."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from lightning_modules.progress import Interrupted, Progress
from lightning_modules.run import run_stage
from lightning_modules.trainer import Execution, quiet_libraries
from multitask.checkpoints import Checkpoint, CheckpointStore
from multitask.experiment import StageJob
from multitask.recipe import build_recipe
from multitask.storage import Storage
from ray_jobs.screen import Screen
from ray_jobs.train import Driver, Request

CPU = Execution(accelerator="cpu")


def recipe_tree(**stage: Any) -> dict[str, Any]:
    """One supervised stage on quora, with the tiny encoder; the other tasks are measured."""
    default = {"name": "para", "tasks": ["quora"], "train": "full-model", "lr": 1e-3, "epochs": 2}
    return {
        "name": "small",
        "encoder": "tiny",
        "data": "sample",
        "tasks": {"sst": {"head": "mlp"}, "quora": {"head": "mlp"}, "sts": {"head": "cosine"}},
        "defaults": {"batch_size": 16, "max_examples": 75, "dropout": 0.3},
        "stages": [{**default, **stage}],
    }


def small_driver(folder: Path | str, experiment: str = "small", fresh: bool = False, **stage: Any) -> Driver:
    recipe = build_recipe(recipe_tree(**stage), "test")
    return Driver(Request(recipe, None, Storage(str(folder)), experiment, 0, fresh), Screen())


def small_job(folder: Path | str, experiment: str = "small", **stage: Any) -> StageJob:
    """The job of that recipe's stage, claimed and fenced as the driver does it; it predicts nothing."""
    driver = small_driver(folder, experiment, **stage)
    driver.claim()
    driver.experiment.begin_attempt()
    return replace(driver.job(driver.recipe.stages[0]), measure_start=False, predict={})


def go_on(progress: Progress) -> bool:
    return False


def stop_at(step: int) -> Callable[[Progress], bool]:
    """A report that asks to stop when that many steps are done, of all epochs together."""
    return lambda progress: progress.doing == "step" and (progress.epoch - 1) * progress.total + progress.done >= step


def run(job: StageJob, report: Callable[[Progress], bool] = go_on, every: float = 0.0) -> bool:
    """Runs a job as one rank; whether it came to its end."""
    quiet_libraries()
    try:
        run_stage(job, CPU, report, every=every)
    except Interrupted:
        return False
    return True


def newest(job: StageJob) -> Checkpoint:
    found = CheckpointStore(job.folder.at("checkpoints")).newest()
    assert found is not None
    return found


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference over two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def run_ranks(job: StageJob, world: int, stop_step: int | None = None) -> None:
    """Runs a job as `world` gloo ranks, each a process; rank 0 asks to stop after `stop_step` steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, args=(job.to_json(), world, port, stop_step), nprocs=world)


def _rank(rank: int, job: dict[str, Any], world: int, port: int, stop_step: int | None) -> None:
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
    torch.set_num_threads(1)
    quiet_libraries()
    strategy: pl.strategies.Strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=False)
    execution = Execution("cpu", world, strategy, [TorchElasticEnvironment()])
    report = stop_at(stop_step) if stop_step else go_on
    try:
        run_stage(StageJob(**job), execution, report, every=0.0)
    except Interrupted:
        return
