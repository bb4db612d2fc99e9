"""A BERT's stored tensors under MiniBert's names, strictly: nothing of the encoder is left out or made up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from multitask.errors import UserError
from multitask.model.bert import MiniBert
from multitask.model.config import BertConfig

StateDict = dict[str, Tensor]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The one name that every BERT has, whatever was put before it: `bert.`, `module.bert.`, `0.auto_model.`, nothing.
WORDS = "embeddings.word_embeddings.weight"
ENCODER = ("embeddings.", "encoder.", "pooler.")
POOLER = "pooler."
# Buffers of 0, 1, 2, ... and of zeros, which some versions of transformers stored.
DROPPED = ("embeddings.position_ids", "embeddings.token_type_ids")
# Files converted from TensorFlow (bert-base-uncased on the hub) name the layer norms' parameters so.
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Encoders with BERT's names that compute something else, by what stands before their names.
OTHERS = ("roberta", "electra", "ernie", "layoutlm", "roformer", "nezha", "mpnet", "deberta", "camembert", "xlm")
MOST_NAMES = 10  # of an error
# Parts of names that say that the weights are not to be used as they are stored -> what they are.
MARKS = {
    "lora_": "a LoRA adapter's, not merged: merge_and_unload() of peft, then save_pretrained, merges it",
    ".base_layer.": "a PEFT adapter's, not merged: merge_and_unload() of peft, then save_pretrained, merges it",
    **dict.fromkeys((".SCB", ".absmax", ".quant_map", ".quant_state"), "quantised by bitsandbytes"),
    **dict.fromkeys((".qweight", ".qzeros", ".g_idx"), "quantised by GPTQ or AWQ"),
    **dict.fromkeys((".weight_packed", ".weight_scale"), "quantised by compressed-tensors"),
    **dict.fromkeys((".weight._data", ".weight._scale"), "quantised by quanto"),
}


@dataclass(frozen=True)
class Encoder:
    """An encoder's weights, as read from a file.

    state: MiniBert's state dict, float32; a pooler that was not there is zeros. left: how many tensors lay beside the
    encoder, by the first part of their names (a task's head).
    """

    state: StateDict
    left: dict[str, int]


class _Uninitialised(TorchFunctionMode):
    """Within it, torch's modules leave their new weights as they are."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            return given.get("tensor", args[0] if args else None)
        return func(*args, **given)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Within it, a module that is made has weights of the right shapes and without content. To initialise these would
    import torch's compiler, a second."""
    with torch.device("meta"), _Uninitialised():
        yield


def has_pooler(state: Mapping[str, Tensor], prefix: str = "") -> bool:
    """Whether an encoder's pooler is one, and not the zeros that stand in for it."""
    return bool(state[f"{prefix}pooler.dense.weight"].any())


def encoder_of(tensors: Mapping[str, Tensor], config: BertConfig, where: str) -> Encoder:
    """Stored tensors (fp16, bf16, fp32 or fp64) -> the encoder among them.

    where: the file, for the error. Raises UserError, listing names, for missing, unknown or misshaped ones, for
    quantised weights, and for numbers that are not finite.
    """
    _refuse_marked(tensors, where)
    prefix = _prefix_of(tensors, where)
    found, left = _split(tensors, prefix)
    with shapes_alone():
        wanted = {name: tensor.shape for name, tensor in MiniBert(config).state_dict().items()}
    if not any(name.startswith(POOLER) for name in found):
        found |= {name: torch.zeros(shape) for name, shape in wanted.items() if name.startswith(POOLER)}
    _refuse(where, "missing", wanted.keys() - found.keys())
    _refuse(where, "unknown", found.keys() - wanted.keys())
    shapes = {name: f"{tuple(found[name].shape)}, by config.json {tuple(shape)}" for name, shape in wanted.items()}
    _refuse(where, "misshaped", (f"{n} is {shapes[n]}" for n, shape in wanted.items() if found[n].shape != shape))
    return Encoder({name: as_float(found[name], name, where) for name in wanted}, left)


def _refuse_marked(names: Iterable[str], where: str) -> None:
    for name in names:
        if kind := next((kind for mark, kind in MARKS.items() if mark in name), None):
            raise UserError(f"{where}: {name}: {kind}; valid: weights of float32, float16 or bfloat16")


def _prefix_of(names: Iterable[str], where: str) -> str:
    """What stands before the encoder's names. Raises UserError where there is no encoder, several, or another kind."""
    names = sorted(names)
    prefixes = [name.removesuffix(WORDS) for name in names if name == WORDS or name.endswith(f".{WORDS}")]
    if not prefixes:
        listed = ", ".join(names[:5]) or "nothing"
        raise UserError(f"{where}: no tensor is named {WORDS}, as a BERT encoder's is; it has {listed} ...")
    if len(prefixes) > 1:
        raise UserError(f"{where}: {len(prefixes)} encoders, {', '.join(prefixes)}; valid: one; save it by itself")
    if other := next((part for part in prefixes[0].split(".") if part.startswith(OTHERS)), None):
        raise UserError(f"{where}: the encoder's tensors are {prefixes[0]}..., a {other}'s; valid: a BERT's")
    return prefixes[0]


def _split(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(the encoder's tensors under MiniBert's names, how many other tensors there are by the first part of their names,
    whatever prefix such as `module.` stands before all names)."""
    outer = prefix[: prefix.rstrip(".").rfind(".") + 1]
    found: dict[str, Tensor] = {}
    left: dict[str, int] = {}
    for stored, tensor in tensors.items():
        name = stored.removeprefix(prefix)
        if stored.startswith(prefix) and name.startswith(ENCODER):
            if name not in DROPPED:
                found[_renamed(name)] = tensor
        else:
            first = stored.removeprefix(outer).partition(".")[0]
            left[first] = left.get(first, 0) + 1
    return found, left


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _refuse(where: str, fault: str, names: Iterable[str]) -> None:
    listed = sorted(names)
    if listed:
        raise UserError(f"{where}: {len(listed)} {fault} tensors for a BERT encoder: {', '.join(listed)}")


def as_float(tensor: Tensor, name: str, where: str) -> Tensor:
    """A weight in float32. Raises UserError for one that is none: whole numbers, or any that is not finite."""
    if tensor.dtype not in FLOATS:
        valid = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        raise UserError(f"{where}: {name} holds {tensor.dtype}: quantised, or no weights; valid: {valid}")
    if not all_finite(tensor):
        raise UserError(f"{where}: {name} holds numbers that are not finite; its training has diverged")
    return tensor.float().contiguous()


def all_finite(tensor: Tensor) -> bool:
    """Whether every number of the tensor is finite. A finite sum says so, in a tenth of the time of a look at each;
    where the sum is not, large numbers may have made it so."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
