"""How far what an export writes is from its bundle, measured on the thing that is shipped."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from multitask.bundle.bundle import Bundle
from multitask.inference.embed import TextEncoder

STORY = "A long story of a harbour town, its boats, its storms and the people who stay. "
# Of several lengths; the third is cut.
TEXTS = ("Yes.", "A quiet film that stays with you.", STORY * 60, STORY * 2, "Can I learn Spanish?", STORY * 7, "x")


def largest_share(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """The largest difference between two tensors; of numbers above 1 as a share of them. nan where either holds one."""
    return float((np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))).max())


def upwards(value: float) -> str:
    """A number in two digits, rounded up: a difference that is said to lie within it does."""
    if not value or not math.isfinite(value):
        return f"{value:.1e}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit - 1e-9) * unit:.1e}"


def rounding(bundle: Bundle, dtype: torch.dtype, arithmetic: torch.dtype = torch.float32) -> float:
    """How far an embedding, of length 1, moves at most when weights are stored as `dtype` and computed with in
    `arithmetic`."""
    rounded = TextEncoder(bundle)
    rounded.model.to(dtype).to(arithmetic)
    return largest_share(rounded.embed(TEXTS), TextEncoder(bundle).embed(TEXTS))
