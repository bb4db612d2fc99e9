"""More than one process: two ranks against one, and Ray's workers against Lightning's own processes.

`steady`: pairs a second over the second half of the steps, when all that starts has started.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from benchmarks.material import Material
from benchmarks.side import Pass
from benchmarks.training import claimed, stage_recipe, train, write_pairs
from lightning_modules.trace import VARIABLE

GLOBAL_BATCH = 64


def _rank(rank: int, job: dict[str, Any], world: int, port: int, trace: str) -> None:
    """One process of DDP as torchrun would start it, with one thread."""
    import torch
    from pytorch_lightning.plugins.environments import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    from lightning_modules.run import Execution, quiet_libraries, run_stage
    from multitask.experiment.stage_job import StageJob

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(world), "TORCHELASTIC_RUN_ID": "bench",
        VARIABLE: trace,
    }  # fmt: skip
    torch.set_num_threads(1)
    quiet_libraries()
    strategy: Any = "auto"
    if world > 1:
        strategy = DDPStrategy(process_group_backend="gloo", find_unused_parameters=False, gradient_as_bucket_view=True)
    plugins = [TorchElasticEnvironment()] if world > 1 else []
    run_stage(StageJob.of(job), Execution("cpu", world, strategy, plugins), lambda progress: False)


def steady(trace: Path, batch: int) -> float:
    """Of rank 0, from the trace that the pass left."""
    lines = [json.loads(line) for file in trace.glob("*.jsonl") for line in file.read_text().splitlines()]
    times = sorted(line["time"] for line in lines if line["rank"] == 0)
    half = times[len(times) // 2 :]
    shutil.rmtree(trace)
    return batch * (len(half) - 1) / (half[-1] - half[0])


def processes(material: Material, world: int, **settings: Any) -> Callable[[], Pass]:
    """Steps alone, as the stage's outcome counts them: the start of processes is not what is compared."""
    write_pairs(material)
    recipe, trace = stage_recipe(**settings), material.folder / "trace"

    def make_pass() -> Pass:
        shutil.rmtree(material.folder / "storage", ignore_errors=True)
        job = claimed(material, recipe)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(_rank, args=(job.to_json(), world, port, str(trace)), nprocs=world)
        facts = {"steady": steady(trace, recipe["defaults"]["batch_size"])}
        return Pass(job.folder.read_json("outcome.json")["training_seconds"], material.amount, facts)

    return make_pass


def two_alone(material: Material) -> Callable[[], Pass]:
    """Twice one rank at the same time, neither knowing of the other: what two of the machine's cores give at most."""
    halves = [Material(material.data, material.folder / name, material.amount // 2) for name in ("first", "second")]
    passes = [processes(half, 1, batch_size=GLOBAL_BATCH // 2) for half in halves]

    def make_pass() -> Pass:
        with ThreadPoolExecutor(len(passes)) as pool:
            both = list(pool.map(lambda make: make(), passes))
        return Pass(max(made.seconds for made in both), material.amount)

    return make_pass


def one_rank(material: Material) -> Callable[[], Pass]:
    return processes(material, 1, batch_size=GLOBAL_BATCH)


def two_ranks(material: Material) -> Callable[[], Pass]:
    return processes(material, 2, batch_size=GLOBAL_BATCH)


def one_rank_of_32(material: Material) -> Callable[[], Pass]:
    return processes(material, 1)


def two_ranks_of_32(material: Material) -> Callable[[], Pass]:
    return processes(material, 2)


def ray_workers(material: Material) -> Callable[[], Pass]:
    """The same on two workers of a Ray of its own."""
    write_pairs(material)
    trace = material.folder / "trace"
    os.environ[VARIABLE] = str(trace)

    def make_pass() -> Pass:
        outcome = train(material, stage_recipe(batch_size=GLOBAL_BATCH), workers=2)
        return Pass(outcome["training_seconds"], material.amount, {"steady": steady(trace, GLOBAL_BATCH)})

    return make_pass
