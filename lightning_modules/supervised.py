"""The supervised objective: a task's own loss through its head."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_modules.base import StageModule
from multitask.data.batches import Batch
from multitask.data.tokens import TokenTable
from multitask.losses import LOSSES


class SupervisedModule(StageModule):
    """losses: task -> the loss's name. tables: task -> its training examples."""

    def __init__(self, *args: Any, losses: dict[str, str], tables: dict[str, TokenTable], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses, self.tables = losses, tables

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return LOSSES[self.losses[batch.task]](self.model(batch), batch.labels, batch.weights)

    def example_ids(self, batch: Batch) -> list[str]:
        return [self.tables[batch.task].ids[row] for row in batch.rows.tolist()]
