"""Whether a device computes what the CPU does, and what it did before: parity, optimizers, resuming, ranks."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.material import At, Line, apart, batch_of, gradient_of, loss_of, model_of, pairs_table

# Precision of the arithmetic -> how far a gradient may lie from the CPU's in float64, relative to its length.
PARITY = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}


def parity(at: At) -> Iterator[Line]:
    """The gradient on the device, with dropout on, against the CPU's in float64."""
    import torch

    torch.set_float32_matmul_precision("highest")
    model = model_of("tiny" if at.quick else "minilm-l6")
    table = pairs_table(16, model.config.vocab_size, 40)
    batch = batch_of(table, np.arange(16))
    reference = gradient_of(model.double(), batch)
    model = model.float().to(at.device)
    for name, bound in PARITY.items():
        if name == "float16" and at.device == "cpu":
            continue
        precision = None if name == "float32" else getattr(torch, name)
        found = apart(reference, gradient_of(model, batch.to(at.device), precision, 1024.0))
        yield Line(
            f"gradient in {name}, dropout on, against float64", f"{found:.1e}", f"<= {bound:.0e}", found <= bound
        )
    model.micro_batch = 3
    found = apart(reference, gradient_of(model, batch.to(at.device)))
    yield Line("the same in float32, micro_batch 3", f"{found:.1e}", "<= 1e-04", found <= 1e-4)


def optimizers(at: At) -> Iterator[Line]:
    """torch's fused AdamW, clipped, against ours."""
    import torch

    from multitask.optim import build_optimizer

    ends = []
    for fused in (False, True):
        model = model_of("tiny").to(at.device)
        table = pairs_table(32, model.config.vocab_size, 40)
        named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        optimizer = build_optimizer(named, lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-6, fused=fused)
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, batch_of(table, np.arange(8 * step, 8 * step + 8)).to(at.device)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        ends.append(torch.cat([weight.detach().double().cpu().flatten() for _, weight in named]))
    found = apart(*ends)
    yield Line("weights after 4 steps, fused AdamW against ours", f"{found:.1e}", "<= 1e-05", found <= 1e-5)


def resume(at: At) -> Iterator[Line]:
    """A stage that is stopped after three steps and goes on, against one that is not, by deterministic kernels."""
    import torch

    from lightning_modules.progress import Interrupted
    from lightning_modules.run import Execution, quiet_libraries, run_stage
    from multitask.bundle.bundle import read_bundle

    quiet_libraries()
    torch.use_deterministic_algorithms(True)
    execution = partial(Execution, "gpu" if at.device == "cuda" else "cpu", 1)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [sample_job(Path(folder) / name) for name in ("whole", "parts")]
        run_stage(jobs[0], execution(), lambda progress: False)
        try:
            run_stage(jobs[1], execution(), lambda progress: progress.doing == "step" and progress.done >= 3, every=0.0)
            stopped = False
        except Interrupted:
            stopped = True
        run_stage(jobs[1], execution(), lambda progress: False)
        one, other = (read_bundle(job.folder, "bundle").tensors for job in jobs)
    torch.use_deterministic_algorithms(False)
    same = stopped and all(torch.equal(one[name], other[name]) for name in one)
    yield Line(
        "a stopped and resumed stage, dropout on", "equal" if same else "other weights", "equal to the bit", same
    )


def sample_job(folder: Path) -> Any:
    """A stage of the packaged sample's pairs, as the driver hands it to a runner; nothing is measured before it."""
    from multitask.recipe.checks import build_recipe
    from multitask.storage.storage import Storage
    from ray_jobs.driver.driver import Driver
    from ray_jobs.driver.jobs import job_of
    from ray_jobs.driver.request import TrainingRequest
    from ray_jobs.options import Workers
    from ray_jobs.screen import Screen

    stage = {"name": "para", "tasks": ["quora"], "train": "full-model", "lr": 1e-3, "epochs": 1, "max_examples": 100}
    tree = {
        "name": "check", "encoder": "tiny", "data": "sample", "tasks": {"quora": {"head": "mlp"}},
        "defaults": {"batch_size": 16, "precision": "32-true"}, "stages": [stage],
    }  # fmt: skip
    recipe = build_recipe(tree, "check")
    driver = Driver(TrainingRequest(recipe, None, Storage(str(folder)), "check", Workers(), False), Screen(quiet=True))
    driver.claim()
    driver.experiment.begin_attempt()
    job = job_of(driver.plan, driver.plan.nodes[0])
    return replace(job, measure_start=False, data=replace(job.data, predict={}))


def ranks(at: At) -> Iterator[Line]:
    """Two processes on one device, by gloo, against one: a gradient's mean, dropout on."""
    import torch
    import torch.multiprocessing as mp

    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(_rank, args=(at.device, port, folder), nprocs=2)
        two = torch.load(Path(folder) / "gradient.pt")
    model = model_of("tiny").to(at.device)
    one = gradient_of(model, batch_of(pairs_table(16, model.config.vocab_size, 40), np.arange(16)).to(at.device))
    found = apart(one, two)
    yield Line("gradient of two processes on the device, by gloo", f"{found:.1e}", "<= 1e-05", found <= 1e-5)


def _rank(rank: int, device: str, port: int, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from multitask.model.dropout import Draws

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = model_of("tiny").to(device)
    whole = DistributedDataParallel(model)
    table = pairs_table(16, model.config.vocab_size, 40)
    batch = batch_of(table, np.arange(rank, 16, 2)).to(device)
    model.draws = Draws(1)
    torch.nn.functional.binary_cross_entropy_with_logits(whole(batch), batch.labels).backward()
    if rank == 0:
        found = [weight.grad.double().cpu().flatten() for weight in model.parameters() if weight.requires_grad]
        torch.save(torch.cat(found), Path(folder) / "gradient.pt")
    dist.destroy_process_group()
