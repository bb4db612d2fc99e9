"""The objective `supervised`: tasks' own losses through their heads; what their teachers say, and SMART's terms, where
the stage has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from multitask.data.batches import Batch
from multitask.data.samplers import Rows, derive_seed
from multitask.model.encoding import Encoding
from multitask.model.heads import HEADS
from multitask.objectives.base import Objective, Place, Setup
from multitask.objectives.distillation import Taught, distilled, with_labels
from multitask.objectives.losses import LOSSES, SQUARED, Sums, class_weighted, settings_of
from multitask.objectives.ranks import from_all_ranks, padded_rows
from multitask.objectives.smart import Smart, WeightAverage, adversarial_noise, divergence, draw_noise
from multitask.tasks.labels import KINDS


class Supervised(Objective):
    """Learns tasks' labels through their heads. A batch is of one task."""

    uses_head = True
    smooth = True
    teachable = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.smart: Smart | None = setup.smart
        self.average: WeightAverage | None = None  # the weights that SMART's proximal term holds on to
        self.taught: dict[str, Taught] = {}  # task -> what its teacher says, which is there before the first batch
        self.settings = {task: self._settings(task) for task in setup.tasks}
        self.learned = {task: LOSSES[setup.losses[task]] for task in setup.tasks}

    def _settings(self, task: str) -> dict[str, Any]:
        """The settings of the task's loss. Classes are counted on the training rows in use that have a label, which all
        ranks know."""
        labels = self.setup.tables[task].labels[self.setup.rows[task]]
        labels = labels[~labels.isnan()] if labels.ndim == 1 else labels
        return settings_of(self.setup.loss_settings.get(task, {}), self.model.specs[task].label, labels)

    def batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        batch = super().batch(task, rows, weights, when)
        if task in self.taught:
            batch.taught = self.taught[task].of(rows)
        return batch

    def loss(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        if self.smart and self.smart.proximal:  # of the stage's first weights, whichever task's batch comes first
            self._average(self.smart)
        outputs, (total, count) = self._learned(batch, place)
        if self.setup.rdrop:
            total = self._twice(batch, outputs, total, place)
        if self.smart and batch.task in (self.smart.tasks or self.setup.tasks):
            total = total + self._regulariser(self.smart, batch, outputs, place)
        return total, count

    def _learned(self, batch: Batch, place: Place) -> tuple[Tensor, Sums]:
        """The head's outputs, and the (sum, count) of the label's loss and the teacher's."""
        teacher, encoding = self.setup.teachers.get(batch.task), self.model.encode(batch)
        sides = self.model.sides(batch, encoding)
        outputs: Tensor = self.model.heads[batch.task](*sides)
        if teacher and teacher.embeddings:  # which the teacher's are compared with, before the head's dropout
            batch = replace(batch, features=self.model.features_of(batch, encoding))
        if teacher is None:
            return outputs, self._task_loss(batch, sides, outputs, place)
        of_labels, _ = self._task_loss(with_labels(batch), sides, outputs, place)
        return outputs, distilled(teacher, batch, outputs, self.model.specs[batch.task].label, of_labels)

    def _twice(self, batch: Batch, outputs: Tensor, total: Tensor, place: Place) -> Tensor:
        """R-Drop's sum (Liang et al., 2021, section 2.2): the loss of two passes whose dropout masks differ, and rdrop
        / 2 times how far their outputs lie apart by the label's divergence, which has both KLs.

        The loss is the mean of both passes' where the paper adds them up, so that other terms keep their weight."""
        others, (again, _) = self._learned(batch, place)
        apart = divergence(outputs, others, self.model.specs[batch.task].label)
        return (total + again) / 2 + self.setup.rdrop / 2 * (apart * self._weights(batch)).sum()

    def _task_loss(self, batch: Batch, sides: Sequence[Encoding | None], outputs: Tensor, place: Place) -> Sums:
        """The task's own loss of this rank's examples.

        A loss of pairs has a value of all ranks' examples together, which is each example's: a rank has its own
        examples' share of the sum, and DDP's average of the gradients is the value's.
        """
        learned, settings = self.learned[batch.task], self.settings[batch.task]
        if learned.similarity is None:
            return learned.sums(outputs, batch.labels, batch.weights, **settings)
        with torch.autocast(outputs.device.type, enabled=False):  # a scaled cosine needs more digits than a half has
            similar = self._similarities(batch.task, learned.similarity, sides, outputs)
            facts = torch.stack((similar, batch.labels.to(similar), batch.weights.to(similar)), dim=1)
            width = -(-self.setup.batch_size // place.world)
            everyone = from_all_ranks(padded_rows(facts, width), place) if place.world > 1 else facts
            total, count = learned.sums(*everyone.unbind(dim=1), **settings)
        own = batch.weights.sum()
        return total * (own / count.clamp(min=1)), own  # where no rank has an example with a label, both are 0

    def _similarities(
        self,
        task: str,
        similarity: Callable[[Tensor, Tensor], Tensor],
        sides: Sequence[Encoding | None],
        outputs: Tensor,
    ) -> Tensor:
        """(B,) at least float32, how alike pairs are: by their encodings where the head has no weights of its own, else
        by the predicted label, on a scale on which the label's range is 1."""
        label = self.model.specs[task].label
        if HEADS[self.model.head_names[task]].trainable:
            return KINDS[label.kind].prediction(outputs, label) / (label.high - label.low)
        encodings = [side.sentence for side in sides if side is not None]
        return similarity(*(it.to(torch.promote_types(it.dtype, torch.float32)) for it in encodings))

    def is_squared(self, task: str) -> bool:
        return self.setup.losses[task] in SQUARED

    def _regulariser(self, smart: Smart, batch: Batch, outputs: Tensor, place: Place) -> Tensor:
        """Both of SMART's terms, summed over the batch (Jiang et al., 2020, equations 2 to 5).

        They are computed in full precision: in halves, the change that the smallest noise makes is rounding, and so is
        its gradient.
        """
        kind = self.device.type
        if not torch.is_autocast_enabled(kind):
            return self._terms(smart, batch, outputs, place)
        with torch.autocast(kind, enabled=False):
            return self._terms(smart, batch, _again(place, lambda: self.model(batch)), place)

    def _terms(self, smart: Smart, batch: Batch, outputs: Tensor, place: Place) -> Tensor:
        label = self.model.specs[batch.task].label
        noise = adversarial_noise(
            lambda noise: _again(place, lambda: self.model(batch, noise)),
            outputs,
            self._first_noise(smart, batch, place),
            label,
            step=smart.step,
            radius=smart.radius,
            iterations=smart.iterations,
            mask=batch.mask,
        )
        perturbed = _again(place, lambda: self.model(batch, noise))
        terms = smart.weight * divergence(perturbed, outputs, label)
        if smart.proximal:
            average = self._average(smart)
            with torch.no_grad():
                held = _again(place, lambda: functional_call(self.model, average.state, (batch,)))
            terms = terms + smart.proximal * divergence(outputs, held, label)
        return (terms * self._weights(batch)).sum()

    def _weights(self, batch: Batch) -> Tensor:
        """(B,) what the examples count for in the task's loss."""
        return class_weighted(batch.labels, batch.weights, self.settings[batch.task].get("class_weights"))

    def _first_noise(self, smart: Smart, batch: Batch, place: Place) -> Tensor:
        """The noise that the search starts from, drawn for each sentence, never for the rank that computes it."""
        count = len(batch.mask) // len(batch)
        seeds = [
            derive_seed(self.setup.seed, self.setup.stage, "noise", place.steps, batch.task, row, at)
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

    def stepped(self) -> None:
        if self.average is not None:
            self.average.update(self.model.trained_weights())

    def state(self) -> dict[str, Tensor]:
        return self.average.state if self.average else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors and self.smart:
            self._average(self.smart).load(tensors)


def _again(place: Place, forward: Callable[[], Tensor]) -> Tensor:
    """A further pass with the masks of the step's first one: equal units are dropped, so that one function is compared
    with itself."""
    place.reseed()
    return forward()
