"""What the parts of the GPU check share: their lines, models of the presets' shapes, and batches of random pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


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
