"""Outputs as probabilities of what an example may be: what the outputs of several models are mixed by, and judged by.

Shapes: outputs (..., *shape) of LabelSpec.shape, log-probabilities (..., C) of C outcomes that exclude each other.
Logarithms are taken and given back without a detour over probabilities, so that none becomes 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Chances:
    """How outputs are probabilities, and probabilities outputs."""

    logs: Callable[[Tensor], Tensor]
    """Outputs -> log-probabilities, float64."""
    outputs: Callable[[Tensor], Tensor]
    """Log-probabilities -> outputs that have them."""
    truth: Callable[[Tensor, int], Tensor]
    """(labels (...), C) -> (..., C) how much of each outcome is true; 1 in sum."""


def _logs_of_classes(outputs: Tensor) -> Tensor:
    return outputs.double().log_softmax(dim=-1)


def _one_of(labels: Tensor, count: int) -> Tensor:
    return (labels.unsqueeze(-1) == labels.new_tensor(range(count))).double()


def _logs_of_yes_and_no(outputs: Tensor) -> Tensor:
    signed = outputs.double().unsqueeze(-1) * outputs.new_tensor([-1.0, 1.0]).double()
    return -signed.logaddexp(signed.new_zeros(()))


def _yes_and_no(labels: Tensor, count: int) -> Tensor:
    return (labels.double().unsqueeze(-1) - labels.new_tensor([0.0, 1.0]).double()).abs()


OF_CLASSES = Chances(_logs_of_classes, lambda logs: logs, _one_of)
OF_YES_OR_NO = Chances(_logs_of_yes_and_no, lambda logs: logs[..., 0] - logs[..., 1], _yes_and_no)
