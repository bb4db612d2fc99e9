"""The supervised objective: tasks' own losses through their heads, and SMART's terms where the stage has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from lightning_modules.base import StageModule
from multitask.data.batches import Batch
from multitask.data.samplers import derive_seed
from multitask.objectives.losses import LOSSES
from multitask.objectives.smart import WeightAverage, adversarial_noise, divergence, draw_noise
from multitask.recipe.settings import Smart


class SupervisedModule(StageModule):
    """A batch is of one task; its loss carries the task's weight."""

    average: WeightAverage | None = None  # the weights that SMART's proximal term holds on to

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        outputs = self.model(batch)
        total, count = LOSSES[self.job.model.losses[batch.task]](outputs, batch.labels, batch.weights)
        if self.stage.smart:
            total = total + self._regulariser(self.stage.smart, batch, outputs)
        return total * self.stage.loss_weights.get(batch.task, 1.0), count

    def _regulariser(self, smart: Smart, batch: Batch, outputs: Tensor) -> Tensor:
        """Both of SMART's terms, summed over the batch (Jiang et al., 2020, equations 2 to 5).

        In full precision: in halves, the change that the smallest noise makes is rounding, and so is its gradient.
        """
        kind = self.device.type
        if not torch.is_autocast_enabled(kind):
            return self._terms(smart, batch, outputs)
        with torch.autocast(kind, enabled=False):
            return self._terms(smart, batch, self._again(lambda: self.model(batch)))

    def _terms(self, smart: Smart, batch: Batch, outputs: Tensor) -> Tensor:
        label = self.model.specs[batch.task].label
        noise = adversarial_noise(
            lambda noise: self._again(lambda: self.model(batch, noise)),
            outputs,
            self._first_noise(smart, batch),
            label,
            step=smart.step,
            radius=smart.radius,
            iterations=smart.iterations,
            mask=batch.mask,
        )
        perturbed = self._again(lambda: self.model(batch, noise))
        terms = smart.weight * divergence(perturbed, outputs, label)
        if smart.proximal:
            average = self._average(smart)
            with torch.no_grad():
                held = self._again(lambda: functional_call(self.model, average.state, (batch,)))
            terms = terms + smart.proximal * divergence(outputs, held, label)
        return (terms * batch.weights).sum()

    def _again(self, forward: Callable[[], Tensor]) -> Tensor:
        """Another pass with the step's own random state: the same units are dropped, the same function is compared."""
        self.seed_step()
        return forward()

    def _first_noise(self, smart: Smart, batch: Batch) -> Tensor:
        """Keyed by the sentence, never by the rank that computes it."""
        position, count = self.state.position, len(batch.mask) // len(batch)
        seeds = [
            derive_seed(self.seed, self.stage.name, "noise", position.steps, batch.task, row, at)
            for at in range(count)
            for row in batch.rows.tolist()
        ]
        lengths, width = batch.mask.sum(dim=1).cpu(), batch.mask.shape[1]
        noise = draw_noise(lengths, width, self.model.config.hidden_size, smart.noise, seeds)
        return noise.to(self.device, next(self.model.parameters()).dtype)

    def _average(self, smart: Smart) -> WeightAverage:
        if self.average is None:
            self.average = WeightAverage(self.model.trained_weights(), smart.momentum)
        return self.average

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.model.trained_weights())

    def extra(self) -> dict[str, Tensor]:
        return self.average.state if self.average else {}

    def restore_extra(self, tensors: dict[str, Tensor]) -> None:
        if tensors and self.stage.smart:
            self._average(self.stage.smart).load(tensors)
