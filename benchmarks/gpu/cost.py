"""What training costs on a device: memory of long texts, an epoch at bert-base's shape, where a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.gpu.material import At, Line, batch_of, gradient_of, loss_of, model_of, pairs_table

PAIRS = 141_506  # of the papers' Quora file
# Dense bf16 (T4, V100: fp16) peaks in TFLOP/s, of the makers' data sheets, by a part of the card's name.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40": 181, "L4": 121, "A10": 125, "V100": 125, "T4": 65}


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
