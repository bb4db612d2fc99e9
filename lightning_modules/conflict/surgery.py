"""`surgery: pcgrad | gradvac`: a step takes a batch of each task, whose gradients are changed where they conflict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.conflict.encoder import EncoderWeights, average_over_ranks, row_of
from lightning_modules.gradients import SENT
from lightning_modules.module import StageModule
from multitask.data.batches import Batch
from multitask.objectives.base import Objective
from multitask.objectives.surgery import SURGERIES, orders
from multitask.recipe.stages import Stage

KEPT = "surgery/"  # how the names of what a checkpoint keeps of it begin


class SurgeryModule(StageModule):
    """Trains a stage by steps of a batch a task.

    Each task's gradient is first made that of its global batch; then those in the encoder are changed, and the step
    is along their mean. Where nothing conflicts that is the gradient of the mean of the tasks' losses, as it always is
    in the other weights: heads belong to one task, and a masked-language head answers all of them alike.
    DDP adds up nothing here: it would know the tasks' sum alone.
    """

    def __init__(self, objective: Objective, stage: Stage, job: Any) -> None:
        super().__init__(objective, stage, job)
        self.encoder = EncoderWeights(self.model, self.stage.name)
        mine = {id(weight) for weight in self.encoder.weights}
        self.others: list[nn.Parameter] = [w for w in self.model.parameters() if w.requires_grad and id(w) not in mine]
        self.surgery = SURGERIES[stage.surgery](stage.tasks)
        self._losses: list[Tensor] = []  # of the step under way, a task each

    def on_train_start(self) -> None:
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.require_backward_grad_sync = False

    def training_step(self, batches: list[Batch], batch_idx: int) -> Tensor:  # type: ignore[override]
        """A 1 that stands for the losses, for `backward` to have the loss scale of 16-mixed from."""
        found = []
        for batch in batches:
            draw = partial(self.draw, batch.task)  # each task's pass drops units of its own
            draw()
            if self.memory:
                self.memory.batch = batch
            found.append(self.objective.loss(batch, replace(self.place, reseed=draw)))
        self._losses = self.global_means(batches, found)
        return torch.ones((), device=self.device, requires_grad=True)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Leaves the step's gradient in every trained weight. loss: the factor on all losses."""
        weights, rows = [*self.encoder.weights, *self.others], []
        own = row_of([None] * len(self.others), self.others).to(self.device)
        losses, self._losses = self._losses, []
        while losses:  # a task's pass is forgotten when its gradient is known
            gradients = torch.autograd.grad(losses.pop(0) * loss.detach(), weights, allow_unused=True)
            rows.append(row_of(gradients[: len(self.encoder.weights)], self.encoder.weights))
            own += row_of(gradients[len(self.encoder.weights) :], self.others)
        shared = torch.stack(rows)
        average_over_ranks(shared, own, self.encoder.words, self.trainer.world_size, SENT[self.stage.compress])
        _set(self.encoder.weights, self._changed(shared, own))
        _set(self.others, own / len(rows))

    def _changed(self, shared: Tensor, own: Tensor) -> Tensor:
        """(P,) the mean over the tasks' changed gradients. shared: (K, P), of the whole global batches. own: the other
        weights' gradients; where any of them is not finite, 16-mixed skips the step, and nothing is changed."""
        self._rest(shared)
        order = orders(len(shared), self.seed, self.stage.name, self.state.position.steps)
        if not bool(own.isfinite().all()):
            return shared.mean(dim=0)
        weights = self.surgery.weights(self.encoder.products(shared), order)
        parts = [weights[part].to(shared) @ shared[:, columns] for part, columns in self.encoder.parts.items()]
        return torch.cat(parts)

    def _rest(self, shared: Tensor) -> None:
        """Forgets the gradients of weights that do not learn in this epoch: they are in no conflict."""
        resting = {id(weight) for weight in self._resting()}
        sizes = [weight.numel() for weight in self.encoder.weights]
        for weight, columns in zip(self.encoder.weights, shared.split(sizes, dim=1), strict=True):
            if id(weight) in resting:
                columns.zero_()

    def kept(self) -> dict[str, Tensor]:
        return {**super().kept(), **{f"{KEPT}{name}": tensor for name, tensor in self.surgery.state().items()}}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        super().take(tensors)
        self.surgery.restore({n.removeprefix(KEPT): tensor for n, tensor in tensors.items() if n.startswith(KEPT)})


def _set(weights: list[nn.Parameter], row: Tensor) -> None:
    """Puts a row of numbers into the gradients of the weights, each in its own shape and type."""
    for weight, part in zip(weights, row.split([weight.numel() for weight in weights]), strict=True):
        weight.grad = part.view_as(weight).to(weight.dtype)
