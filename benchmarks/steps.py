"""A step of long texts, for the memory that its process takes at most; what a rank's plan of a long epoch takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.material import batch_of, model_of, pairs_table
from benchmarks.material import Material, memory_mb
from benchmarks.side import Pass

TOKENS = 512
BATCH, LENGTHS = 2048, (4, 60)


def full_model(material: Material, preset: str, **settings: object) -> Callable[[], Pass]:
    """Forward, backward and AdamW of texts of 512 tokens, half of them each pair's; settings: the model's own."""
    import numpy as np
    import torch

    from multitask.optim import build_optimizer

    model = model_of(preset)
    for name, value in settings.items():
        setattr(model if name == "micro_batch" else model.encoder.encoder, name, value)
    pairs = material.amount // 2
    batch = batch_of(pairs_table(pairs, model.config.vocab_size, 40), np.arange(pairs))
    batch.input_ids = torch.randint(5, model.config.vocab_size, (2 * pairs, TOKENS))
    batch.mask = torch.ones_like(batch.input_ids, dtype=torch.bool)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    optimizer = build_optimizer(named, lr=2e-5, fused=True)

    def make_pass() -> Pass:
        began = time.perf_counter()
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        return Pass(time.perf_counter() - began, 2 * pairs)

    return make_pass


def minilm(material: Material) -> Callable[[], Pass]:
    return full_model(material, "minilm-l6")


def minilm_parts(material: Material) -> Callable[[], Pass]:
    return full_model(material, "minilm-l6", micro_batch=2)


def bert_large(material: Material) -> Callable[[], Pass]:
    return full_model(material, "bert-large-uncased", micro_batch=1, recompute=True)


def plan(material: Material) -> Callable[[], Pass]:
    """The plan of an epoch of that many rows, which each rank makes, up to the first batch's rows."""
    import numpy as np

    from multitask.data.mixing import plan_epoch

    lengths = np.random.default_rng(1).integers(*LENGTHS, material.amount, dtype=np.int32)  # nothing freed to reuse

    def make_pass() -> Pass:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, began = memory_mb("VmRSS"), time.perf_counter()
        plan_epoch("proportional", {"quora": lengths}, BATCH, 1, 0, 1)[0]
        return Pass(time.perf_counter() - began, material.amount, {"more_mb": memory_mb("VmHWM") - before})

    return make_pass
