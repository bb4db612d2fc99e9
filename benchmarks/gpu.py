"""What a GPU does with these models: `make gpu-check`, or `python -m benchmarks.gpu --device cpu --quick` anywhere.

Each part gives lines of a table: what, what was found, what is wanted of it, and whether that is so. Texts are random
tokens of Quora's lengths, so no data and no hub is needed. With --quick models are tiny, and nothing is said of speed.
Exit status 0; 1 where something is not as wanted; 3 where there is no GPU. On one, benchmarks/gpu.json keeps the lines.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ABSENT = 3  # the exit status where there is no GPU
KEPT = Path(__file__).with_name("gpu.json")
PAIRS = 141_506  # of the papers' Quora file
# Dense bf16 (T4, V100: fp16) peaks in TFLOP/s, of the makers' data sheets, by a part of the card's name.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40": 181, "L4": 121, "A10": 125, "V100": 125, "T4": 65}
# Precision of the arithmetic -> how far a gradient may lie from the CPU's in float64, relative to its length.
PARITY = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}


@dataclass(frozen=True)
class Line:
    """A line of the table. held: None where nothing is asked of what was found."""

    what: str
    found: str
    wanted: str = ""
    held: bool | None = None


@dataclass(frozen=True)
class At:
    """Where the parts run: a torch device's type, and whether the models are tiny."""

    device: str
    quick: bool

    @property
    def preset(self) -> str:
        return "tiny" if self.quick else "bert-base-uncased"


def pairs_table(count: int, vocabulary: int, longest: int) -> Any:
    """A TokenTable of pairs of random tokens: lengths as Quora's questions have them, 16 on average, few long ones."""
    import torch

    from multitask.data.tokens import TokenTable

    random = np.random.default_rng(11711)
    lengths = np.clip(np.rint(random.lognormal(2.65, 0.4, 2 * count)), 4, longest).astype(np.int64)
    offsets = np.concatenate(([0], lengths.cumsum()))
    return TokenTable(
        input_ids=torch.from_numpy(random.integers(5, vocabulary, offsets[-1], dtype=np.int32)),
        offsets=torch.from_numpy(offsets),
        labels=torch.from_numpy((random.random(count) < 0.37).astype(np.float32)),
        ids=range(count),  # type: ignore[arg-type]
        sentences=2,
        source="random tokens",
        sha256="",
        quarantined=[],
    )


def model_of(preset: str, seed: int = 1, dropout: float | None = None) -> Any:
    """A model of that shape with random weights and a head for Quora's pairs, in training mode."""
    from multitask.model.config import PRESETS
    from multitask.model.multitask import MultitaskModel

    config = PRESETS[preset].with_dropout(dropout)
    model = MultitaskModel(config, "mean", {"quora": "interaction"}, seed=seed)
    model.encoder.init_weights(seed)
    model.encoder.pooler.requires_grad_(False)  # which mean pooling leaves unused
    return model.train()


def batch_of(table: Any, rows: Any) -> Any:
    from multitask.data.batches import collate

    return collate("quora", table, rows, np.ones(len(rows), np.float32))


def loss_of(model: Any, batch: Any, precision: Any = None) -> Any:
    """The mean loss of a batch, its dropout that of step 1."""
    import torch
    import torch.nn.functional as F

    from multitask.model.dropout import Draws

    model.draws = Draws(1)
    kind = batch.labels.device.type
    with torch.autocast(kind, precision, enabled=precision is not None):
        outputs = model(batch)
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return F.binary_cross_entropy_with_logits(outputs, batch.labels.to(outputs.dtype))


def gradient_of(model: Any, batch: Any, precision: Any = None, scale: float = 1.0) -> Any:
    """Every trained weight's gradient end to end, float64 on the CPU."""
    import torch

    model.zero_grad()
    (loss_of(model, batch, precision) * scale).backward()
    found = [weight.grad.double().cpu().flatten() / scale for weight in model.parameters() if weight.requires_grad]
    return torch.cat(found)


def apart(one: Any, other: Any) -> float:
    """How far two gradients lie apart, relative to the first one's length."""
    return float((one - other).norm() / one.norm())


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

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = model_of("tiny").to(device)
    whole = DistributedDataParallel(model)
    table = pairs_table(16, model.config.vocab_size, 40)
    batch = batch_of(table, np.arange(rank, 16, 2)).to(device)
    from multitask.model.dropout import Draws

    model.draws = Draws(1)
    torch.nn.functional.binary_cross_entropy_with_logits(whole(batch), batch.labels).backward()
    if rank == 0:
        found = [weight.grad.double().cpu().flatten() for weight in model.parameters() if weight.requires_grad]
        torch.save(torch.cat(found), Path(folder) / "gradient.pt")
    dist.destroy_process_group()


def memory(at: At) -> Iterator[Line]:
    """The most that a step of long texts holds, weights aside, as it is and with what spares memory."""
    import torch

    texts, tokens = (4, 32) if at.quick else (32, 512)
    model = model_of(at.preset).to(at.device)
    ids = torch.randint(5, model.config.vocab_size, (2 * texts, tokens))
    batch = batch_of(pairs_table(texts, model.config.vocab_size, 40), np.arange(texts))
    batch = replace(batch, input_ids=ids, mask=torch.ones_like(ids, dtype=torch.bool)).to(at.device)
    precision = torch.bfloat16
    held: dict[str, int] = {}
    for name, micro_batch, recompute in (
        ("plain", None, False),
        ("recompute", None, True),
        ("micro_batch 2", 2, False),
    ):
        model.micro_batch, model.encoder.encoder.recompute = micro_batch, recompute
        held[name] = most_held(partial(gradient_of, model, batch, precision), at.device)
        asked = ("", None) if name == "plain" else ("less than plain", held[name] < held["plain"])
        yield Line(f"{texts} pairs of {tokens} tokens, bf16, {name}", f"{held[name] / 1e6:,.0f} MB", *asked)


def most_held(step: Callable[[], object], device: str) -> int:
    """The most bytes that tensors made in a step hold at any time."""
    import torch

    if device == "cuda":
        step()  # whatever libraries take once
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        step()
    now, most = 0, 0
    for event in sorted(trace.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def speed(at: At) -> Iterator[Line]:
    """Training by the papers' pairs at bert-base's shape, through the project's own batches."""
    import torch
    from torch.utils.data import DataLoader

    from multitask.data.batches import EpochSlices
    from multitask.data.mixing import plan_epoch
    from multitask.optim import build_optimizer

    size, steps, warm = (8, 4, 1) if at.quick else (64, 150, 20)
    model = model_of(at.preset).to(at.device)
    table = pairs_table((steps + warm) * size, model.config.vocab_size, 128)
    plan = plan_epoch("proportional", {"quora": table.lengths}, size, 1, 0, 1)
    slices = EpochSlices(plan, lambda task, rows, weights, step: batch_of(table, rows), rank=0, world=1)
    loader = DataLoader(slices, batch_size=None, pin_memory=at.device == "cuda")
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    optimizer = build_optimizer(named, lr=2e-5, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-6, fused=True)
    waited, tokens, began, batches = 0.0, 0, 0.0, iter(loader)
    for step in range(steps + warm):
        if step == warm:
            _wait(at.device)
            began, waited, tokens = time.perf_counter(), 0.0, 0
        asked = time.perf_counter()
        batch = next(batches)
        tokens += int(batch.mask.sum())  # before it moves
        waited += time.perf_counter() - asked
        batch = batch.to(at.device, non_blocking=True)
        loss_of(model, batch, torch.bfloat16).backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(at.device)
    seconds = time.perf_counter() - began
    epoch = seconds / (steps * size) * PAIRS
    if not at.quick:
        asked = f"an epoch of {PAIRS:,} pairs, bf16, batch {size}", f"{epoch:,.0f} s", "<= 15 s on an H100"
        yield Line(*asked, epoch <= 15)
    yield Line("real tokens a second", f"{tokens / seconds:,.0f}")
    share = waited / seconds
    yield Line("time spent making batches", f"{share:.0%}", "<= 5%", None if at.quick else share <= 0.05)
    weights = sum(weight.numel() for name, weight in named if "embeddings" not in name)
    peak = peak_of(at.device)
    if peak and not at.quick:
        share = 6 * weights * tokens / seconds / (peak * 1e12)
        yield Line("share of the card's dense bf16 peak", f"{share:.0%}", ">= 40%", share >= 0.4)


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def peak_of(device: str) -> float | None:
    """The card's dense peak in TFLOP/s, where it is known."""
    import torch

    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def profile(at: At) -> Iterator[Line]:
    """Where the time of a step goes, by kernel."""
    import torch
    from torch.profiler import ProfilerActivity

    model = model_of(at.preset).to(at.device)
    size = 8 if at.quick else 64
    batch = batch_of(pairs_table(size, model.config.vocab_size, 128), np.arange(size)).to(at.device)
    step = partial(gradient_of, model, batch, torch.bfloat16)
    step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if at.device == "cuda" else [])]
    with torch.profiler.profile(activities=kinds) as trace:
        step()
        _wait(at.device)
    column = "self_device_time_total" if at.device == "cuda" else "self_cpu_time_total"
    found = sorted(trace.key_averages(), key=lambda event: -getattr(event, column))
    whole = sum(getattr(event, column) for event in found) or 1
    for event in found[:8]:
        yield Line(f"of a step: {event.key[:60]}", f"{getattr(event, column) / whole:.0%}")


PARTS: dict[str, Callable[[At], Iterator[Line]]] = {
    "parity": parity, "optimizers": optimizers, "resume": resume, "ranks": ranks, "memory": memory, "speed": speed,
    "profile": profile,
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Runs the parts, prints their table, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless said")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models")
    given = parser.parse_args(words)
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{unknown[0]}: valid: {', '.join(PARTS)}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic kernels need, before CUDA starts
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: torch sees no GPU here; --device cpu --quick tries its parts without one", file=sys.stderr)
        return ABSENT
    at, lines = At(given.device, given.quick), []
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n| what | found | wanted | |\n| --- | --- | --- | --- |")
    for part in given.parts or PARTS:
        for line in PARTS[part](at):
            lines.append(line)
            word = {True: "held", False: "**not held**", None: ""}[line.held]
            print(f"| {line.what} | {line.found} | {line.wanted} | {word} |", flush=True)
    if given.device == "cuda" and not given.quick and not given.parts:
        facts = {"card": name, "torch": torch.__version__, "lines": [asdict(line) for line in lines]}
        KEPT.write_text(json.dumps(facts, indent=1) + "\n")
    return int(any(line.held is False for line in lines))


if __name__ == "__main__":
    sys.exit(main())
