"""Losses: pure functions of tensors that return sums, so that ranks and batches can be added up.

Those of LOSSES, (outputs, labels, weights) -> (sum, count):
- outputs: a head's, (B, classes) logits for cross_entropy, (B,) for the others; (B, W) too for bce
- labels: (B,) float, in the label's own unit (a class's index for cross_entropy), or as the outputs (B, W)
- weights: (B,) float; 0 leaves an example out
- returns: the weighted sum of the examples' losses, and the weights' sum, both ()
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Similarity labels run 0..5 and the cosine 0..1; Sentence-BERT compares them on the cosine's scale.
COSINE_SCALE = 5.0


def _total(losses_B: Tensor, weights_B: Tensor) -> tuple[Tensor, Tensor]:
    return (losses_B * weights_B).sum(), weights_B.sum()


def _wide(outputs: Tensor) -> Tensor:
    """At least float32: a half-precision sum over a batch would lose digits."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def cross_entropy(outputs: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(outputs)[label], nats."""
    return _total(F.cross_entropy(_wide(outputs), labels.long(), reduction="none"), weights)


def bce(outputs: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """-log sigmoid(+-output), nats; labels in 0..1. An example of W outputs has their mean."""
    logits = _wide(outputs)
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
    return _total(losses if losses.ndim == 1 else losses.mean(dim=-1), weights)


def mse(outputs: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(output - label)^2, in the label's unit squared."""
    return _total((_wide(outputs) - labels).square(), weights)


def cosine_mse(outputs: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """((output - label) / 5)^2, on the cosine's scale (Reimers and Gurevych, 2019, section 3)."""
    return _total(((_wide(outputs) - labels) / COSINE_SCALE).square(), weights)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "bce": bce, "mse": mse, "cosine_mse": cosine_mse}


def multiple_negatives(scores: Tensor, own: Tensor, allowed: Tensor) -> Tensor:
    """Sum over A anchors of -(S(x, y) - log sum_j exp S(x, y_j)) (mlm-mnrl.txt, 4.3; Henderson et al., 2017), ().

    scores: (A, C) of each anchor with every candidate. own: (A,) the column of its similar one. allowed: (A, C) bool,
    which candidates count as negatives; its own always does. No anchors give 0.
    """
    allowed = allowed.scatter(1, own[:, None], True)
    columns = scores.masked_fill(~allowed, -torch.inf)
    return (columns.logsumexp(dim=1) - scores.gather(1, own[:, None]).squeeze(1)).sum()
