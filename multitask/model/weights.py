"""A BERT weight file's tensors under MiniBert's names, strictly: nothing is left out or made up."""

from __future__ import annotations

from collections.abc import Iterable

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from multitask.errors import UserError
from multitask.model.bert import MiniBert
from multitask.model.config import BertConfig

# What may lie beside an encoder and is dropped: BERT's pre-training heads, and an old buffer of 0, 1, 2, ...
DROPPED_PREFIXES = ("cls.",)
DROPPED = ("embeddings.position_ids",)
PREFIX = "bert."  # before the encoder's names in a file of BertForPreTraining and the like
# Files converted from TensorFlow (bert-base-uncased on the hub) name the layer norms' parameters so.
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def read_encoder(data: bytes, config: BertConfig, where: str, pooler: bool = True) -> dict[str, Tensor]:
    """A safetensors file's bytes (fp16, bf16 or fp32) -> MiniBert's state dict, float32.

    pooler: whether it is needed; where not, and the file has none, it is zeros. where: the file, for the error.
    Raises UserError, listing names, for missing, unknown or misshaped ones.
    """
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise UserError(f"{where}: not a sound safetensors file: {error}") from error
    found = {name: tensor for old, tensor in tensors.items() if (name := _mapped(old)) is not None}
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in MiniBert(config).state_dict().items()}
    if not pooler:
        found = {name: torch.zeros(shape) for name, shape in wanted.items() if name.startswith("pooler.")} | found
    _refuse(where, "missing", wanted.keys() - found.keys())
    _refuse(where, "unknown", found.keys() - wanted.keys())
    _refuse(
        where,
        "misshaped",
        (
            f"{name} is {tuple(found[name].shape)}, by config.json {tuple(shape)}"
            for name, shape in wanted.items()
            if found[name].shape != shape
        ),
    )
    return {name: found[name].float() for name in wanted}


def _mapped(name: str) -> str | None:
    """MiniBert's name for a file's, None for what is dropped."""
    if name.startswith(DROPPED_PREFIXES):
        return None
    name = name.removeprefix(PREFIX)
    for old, new in RENAMED.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return None if name in DROPPED else name


def _refuse(where: str, fault: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        raise UserError(f"{where}: {len(listed)} {fault} tensors for a BERT encoder: {', '.join(listed)}")
