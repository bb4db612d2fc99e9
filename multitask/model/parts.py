"""A model's parts by the names of their weights, from its heads, where gradients come in, down to its embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEADS, POOLER, EMBEDDINGS = "heads", "pooler", "embeddings"
LAYER = re.compile(r"(?:encoder\.encoder\.layer|branches\.[^.]+)\.(\d+)\.")  # the shared one, and tasks' own


def part_of(name: str) -> str:
    """The part of a weight of that name: heads, pooler, layer_0, layer_1 ..., or embeddings."""
    if found := LAYER.match(name):
        return f"layer_{found[1]}"
    if name.startswith("encoder.embeddings."):
        return EMBEDDINGS
    return POOLER if name.startswith("encoder.") else HEADS


def depth_of(name: str, layers: int) -> int:
    """How deep a weight of that name lies in an encoder of so many layers: 0 for heads and pooler, 1 for the last
    layer, `layers` for the first one, and one more for the embeddings."""
    if found := LAYER.match(name):
        return layers - int(found[1])
    return layers + 1 if part_of(name) == EMBEDDINGS else 0


def is_frozen(name: str, layers: int, freeze: int | None) -> bool:
    """Whether a weight is of the embeddings or of the first `freeze` layers; None freezes nothing."""
    return freeze is not None and depth_of(name, layers) > layers - freeze


def lr_part(name: str, layers: int, decay: float, scale: Mapping[str, float]) -> tuple[str, float]:
    """A weight's part and the factor on its learning rate: decay to the power of its depth (layer-wise decay: Clark et
    al., 2020, appendix A), times what `scale` has for heads, encoder or embeddings, 1 where it has nothing."""
    part = part_of(name)
    family = part if part in (HEADS, EMBEDDINGS) else "encoder"
    return part, decay ** depth_of(name, layers) * scale.get(family, 1.0)
