"""The supervised objective: tasks' own losses through their heads, by SMART's terms where the stage has them."""

from __future__ import annotations

from torch import Tensor

from lightning_modules.base import StageModule
from multitask.data.batches import Batch
from multitask.losses import LOSSES


class SupervisedModule(StageModule):
    """A batch is of one task; its loss carries the task's weight."""

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = self.model(batch)
        total, count = LOSSES[self.job.losses[batch.task]](outputs, batch.labels, batch.weights)
        return total * self.stage.loss_weights.get(batch.task, 1.0), count
