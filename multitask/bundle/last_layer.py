"""The last layer of a bundle's head, by which its outputs can be multiplied and moved for good."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from multitask.bundle.bundle import Bundle


def moved(bundle: Bundle, task: str, scale: float, shift: Tensor | float = 0.0) -> Bundle:
    """A copy of the bundle whose head for the task puts out scale * output + shift. shift: one number, or one for each
    output. Every head that has weights ends in a dense layer."""
    last = f"heads.{task}.layers.{_last_layer(bundle, task)}."
    weight, bias = (bundle.tensors[f"{last}{name}"].double() * scale for name in ("weight", "bias"))
    tensors = {f"{last}weight": weight.float(), f"{last}bias": (bias + shift).float()}
    return replace(bundle, tensors={**bundle.tensors, **tensors})


def _last_layer(bundle: Bundle, task: str) -> int:
    layer = re.compile(rf"heads\.{re.escape(task)}\.layers\.(\d+)\.")
    return max(int(found[1]) for name in bundle.tensors if (found := layer.match(name)))
