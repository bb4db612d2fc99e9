"""What a step holds in memory, by model, batch and length: a table of docs/scaling.md. `python -m benchmarks.memory`.

Counted, not sampled: every tensor that autograd keeps for the backward pass of one encoder step, each storage once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from benchmarks.scaling import BASE, MINILM, Model
from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS, BertConfig
from multitask.model.encoding import encode

SENTENCES, LENGTHS = (4, 8), (32, 128, 512)
FP32_STATE = 16  # bytes a weight: itself, its gradient, AdamW's two moments
CONFIGS: dict[Model, BertConfig] = {MINILM: PRESETS["minilm-l6"], BASE: PRESETS["bert-base-uncased"]}


def held(model: MiniBert, sentences: int, length: int) -> int:
    """Bytes kept for the backward pass of sentences of one length, the weights themselves not counted."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    storages: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found = tensor.detach()  # with its history it would keep itself alive
        storages.setdefault(found.untyped_storage().data_ptr(), found)
        return found

    ids = torch.randint(1, model.config.vocab_size, (sentences, length))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoding = encode(model, "mean", ids, torch.ones_like(ids))
    del encoding
    return sum(tensor.untyped_storage().nbytes() for at, tensor in storages.items() if at not in own)


def lines() -> Iterator[str]:
    yield "| model | weights, gradients, AdamW | sentences | tokens each | kept for backward | without dropout |"
    yield "| --- " * 6 + "|"
    for model, config in CONFIGS.items():
        state = FP32_STATE * sum(weight.numel() for weight in MiniBert(config).parameters())
        for sentences, length in product(SENTENCES, LENGTHS):
            found = [
                held(MiniBert(config.with_dropout(dropout)).train(), sentences, length) / 1e6 for dropout in (None, 0.0)
            ]
            sizes = " | ".join(f"{size:,.0f} MB" for size in found)
            yield f"| {model.name} | {state / 1e6:,.0f} MB | {sentences} | {length} | {sizes} |"


def main() -> None:
    for line in lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()
