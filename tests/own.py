"""Code of a user's own, as tests name it by import path where ranks are processes of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from multitask.data.batches import Batch
from multitask.data.own_sampler import Epoch
from multitask.data.samplers import Rows
from multitask.data.tokens import TokenTable
from multitask.objectives.base import Objective, Place, Setup, similar_rows
from multitask.tasks.schema import Above0, Strict
from multitask.tasks.table import TaskSpec


class AlignmentOptions(Strict):
    power: Above0 = 2.0


class Alignment(Objective):
    """Similar pairs' encodings come near each other (Wang and Isola, 2020, section 4.1), the more the later: what it
    counts has to be kept."""

    Options = AlignmentOptions
    has_head = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.steps = torch.zeros((), dtype=torch.float64)

    @classmethod
    def wants_similar(cls, options: Any) -> bool:
        return True

    @classmethod
    def examples(cls, options: Any, spec: TaskSpec, table: TokenTable, rows: Rows) -> tuple[TokenTable, Rows]:
        return table, similar_rows(spec, table, rows)

    def loss(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        one, two = F.normalize(self.model.dropped(self.model.encode(batch)), dim=1).chunk(2)
        apart = (one - two).square().sum(dim=1).clamp(min=1e-12) ** (self.options.power / 2)
        return (apart * batch.weights).sum() * (1 + float(self.steps)), batch.weights.sum()

    def stepped(self) -> None:
        self.steps = self.steps + 1

    def state(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def restore(self, tensors: Any) -> None:
        self.steps = tensors.get("steps", self.steps)


def short_first(epoch: Epoch) -> list[tuple[str, Rows]]:
    """Short sentences first in the first epoch, shuffled after that; one task after the other."""
    drawn = np.random.default_rng(epoch.seed)
    batches = []
    for task, lengths in epoch.lengths.items():
        rows = drawn.permutation(len(lengths))
        if epoch.number == 0:
            rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [(task, rows[at : at + epoch.batch_size]) for at in range(0, len(rows), epoch.batch_size)]
    return batches
