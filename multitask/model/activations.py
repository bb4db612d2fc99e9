"""The functions between the two halves of a layer's feed-forward network, by config.json's `hidden_act`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]

_by_tanh: Activation = partial(F.gelu, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    """GELU by a sigmoid (Hendrycks and Gimpel, 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


# transformers has several names for GELU's approximation by tanh, which differ in rounding alone.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,  # exact, by erf: BERT's own
    "gelu_python": F.gelu,
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), _by_tanh),
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "mish": F.mish,
}
