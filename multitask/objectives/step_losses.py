"""What a step's batches cost over all ranks: summed up on the device, and read from it when the host need not wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from multitask.data.batches import Batch, sum_of_hashes
from multitask.objectives.ranks import sum_over_ranks


class GlobalLoss(NamedTuple):
    """What all ranks together have of one global batch."""

    total: float
    """The sum of its losses."""
    counted: float
    """What the sum is to be divided by: examples, pairs or tokens."""
    examples: float
    """The examples that are not there to fill a slice up."""
    stops: float
    """How many ranks want to stop."""
    fed: float
    """A hash of its examples, whichever rank was fed which."""


class StepLosses:
    """The sums of losses of this rank's slices of a step's global batches, and of all ranks' together.

    batches: the slices. totals, counts: each one's sum of losses, and what it is to be divided by. stop: whether this
    rank wants to stop.
    """

    def __init__(
        self, batches: Sequence[Batch], totals: Sequence[Tensor], counts: Sequence[Tensor], stop: bool
    ) -> None:
        self.batches, self.totals = batches, [total.detach() for total in totals]
        facts = zip(batches, self.totals, counts, strict=True)
        self._summed = sum_over_ranks(torch.stack([_facts(*of, stop) for of in facts]))

    def shares(self, weights: Sequence[float]) -> list[Tensor]:
        """Each global batch's weight over what the batch counts, on the device. A batch with nothing to learn from (no
        similar pair, no hidden token) has a loss of 0, not 0 / 0: its share is 0."""
        counts = self._summed[:, 1].unbind()
        return [torch.where(count > 0, weight / count, 0.0) for weight, count in zip(weights, counts, strict=True)]

    def read(self) -> list[GlobalLoss]:
        """What each global batch has, for the host, which waits until the device has come so far."""
        return [GlobalLoss(*facts) for facts in self._summed.tolist()]


def _facts(batch: Batch, total: Tensor, count: Tensor, stop: bool) -> Tensor:
    """(5,) a GlobalLoss's fields of one rank, to be added up."""
    examples = (batch.weights > 0).sum().to(total)
    wide = torch.float32 if total.device.type == "mps" else torch.float64  # the hashes need 32 bits and more
    found = (total, count, examples, examples.new_full((), float(stop)), sum_of_hashes(batch))
    return torch.stack([fact.detach().to(wide) for fact in found])
