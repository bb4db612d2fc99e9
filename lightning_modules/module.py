"""A stage as a LightningModule: positions, seeds, the loss over all ranks, and the optimizer's course."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.own.callbacks import OwnCallbacks
from multitask.data.batches import Batch
from multitask.data.samplers import derive_seed
from multitask.data.tokens import TokenTable
from multitask.experiment.checkpoints import Checkpoint, State
from multitask.experiment.records import Record
from multitask.experiment.stage_job import StageJob
from multitask.measure.evaluate import Autocast
from multitask.measure.metrics import Score
from multitask.model.averages import average_of
from multitask.model.dropout import Draws
from multitask.model.parts import depth_of, lr_part
from multitask.objectives.base import Objective, Place
from multitask.objectives.memory import Memory
from multitask.objectives.ranks import sum_over_ranks
from multitask.objectives.step_losses import StepLosses
from multitask.objectives.weighting import Uncertainty
from multitask.optim import build_optimizer, moments, restore_moments, schedule, set_lr
from multitask.recipe.stages import Stage, says

LEARNED = "uncertainty/"  # how the names of learned losses' weights begin in a checkpoint


class NonFiniteLoss(RuntimeError):
    """The loss is no number any more; the stage stops before the optimizer step."""


def _chained(before: str, fact: str) -> str:
    return hashlib.blake2b(f"{before} {fact}".encode(), digest_size=16).hexdigest()


class StageModule(pl.LightningModule):
    """Trains an objective's model for one stage, from `state.position` on.

    Lightning runs the loop; the position is ours, so that a resumed stage needs nothing of Lightning's own counters.

    Attributes:
        loss: The newest step's, over all ranks.
        lr, lr_by_part: The newest step's learning rate, and those of the parts whose rates differ.
        task_losses: Task -> [sum, count] since the last point of its curve.
        told: Scalars that TensorBoard is to be told with the newest step; whoever tells them empties it.
        wants_stop: Asked on each rank before a step.
        stopping: Whether some rank wants to stop; all of them know after one and the same step.
    """

    def __init__(self, objective: Objective, stage: Stage, job: StageJob) -> None:
        super().__init__()
        self.objective, self.model, self.stage, self.job, self.seed = objective, objective.model, stage, job, job.seed
        self.steps_per_epoch, self.state = 0, State()
        self.loss = math.nan
        self.task_losses: dict[str, list[float]] = {}
        self.told: dict[str, float] = {}
        self.wants_stop: Callable[[], bool] = lambda: False
        self.stopping = False
        self._average = average_of(**stage.average.model_dump()) if stage.average else None
        self.lr, self.lr_by_part = math.nan, dict[str, float]()
        self._examples = 0.0  # of the newest global batch
        self._fed = ""  # the newest global batch's task, and a hash of its examples, whichever rank was fed which
        self._began = time.monotonic()
        self._resumed: Checkpoint | None = None  # whose moments the optimizer takes when it is made
        reached = {task: objective.reached(self.model, task) for task in stage.tasks}
        self.model.set_trainable(reached, stage.train == "full-model", stage.freeze)
        self._elsewhere = {task: self.model.trained_elsewhere(parts) for task, parts in reached.items()}
        learned = stage.loss_weights == "uncertainty"
        self.memory = Memory(objective) if stage.micro_batch == "auto" else None
        self.own = OwnCallbacks(stage.callbacks)
        self.uncertainty = Uncertainty({task: objective.is_squared(task) for task in stage.tasks}) if learned else None
        self._means: dict[str, float] = {}  # task -> the mean loss of its newest global batch, of the newest step
        self._step_losses: StepLosses | None = None  # of the step under way, until the host has read them
        self._unused: list[nn.Parameter] = []  # trained weights that the newest batch does not reach

    def start(self, checkpoint: Checkpoint | None, weights: str, steps_per_epoch: int) -> None:
        """Puts the stage where the checkpoint left it, or at its beginning: weights, position, losses, and,
        once Lightning asks for the optimizer, its moments and what the objective keeps, which lie on the device.

        weights: the sha256 of those that the stage starts from.
        """
        self.steps_per_epoch, self._resumed = steps_per_epoch, checkpoint
        if checkpoint:
            self._reinitialise()  # what is not trained, such as an unused pooler, is not in the checkpoint
            self.model.load_trained(checkpoint.weights)
            self.own.restore(checkpoint, steps_per_epoch)
            if self._average:
                self._average.restore(checkpoint.average)
        self.state = replace(checkpoint.state if checkpoint else State(), start=weights).rolled(steps_per_epoch)
        self.model.part_tokens = self.state.part_tokens if self.memory else None
        self.restore_losses()
        self.factor = schedule(self.stage.schedule, int(self.stage.warmup * self.total_steps), self.total_steps)

    def _reinitialise(self) -> None:
        if self.stage.reinit:
            self.model.reinitialise(self.stage.reinit, derive_seed(self.seed, self.stage.name, "reinit"))

    def on_fit_start(self) -> None:
        """Comes after the callbacks', which measure what the stage starts from as it is."""
        if not self.state.position.steps:
            self._reinitialise()

    def look_at_memory(self) -> None:
        """Under `micro_batch: auto`, looks whether a GPU can hold what the checkpoint says, or all, and what it can
        where not; a CPU's memory says nothing before the system ends the process."""
        if self.memory and self.device.type != "cpu" and not self.model.encoder_frozen:
            with self.trainer.precision_plugin.forward_context():
                self.memory.look(self.stage.tasks, -(-self.stage.batch_size // self.trainer.world_size), self.draw)

    @property
    def place(self) -> Place:
        """Where this rank computes the next step."""
        steps, trainer = self.state.position.steps, self.trainer
        return Place(trainer.global_rank, trainer.world_size, steps, self.draw, sum_over_ranks)

    def own_metrics(self, data: Mapping[str, TokenTable], autocast: Autocast) -> dict[str, Score]:
        """Dev metrics of the objective itself, beside the tasks', after training; data: task -> its dev examples."""
        return self.objective.measure(data, self.place, autocast)

    @property
    def total_steps(self) -> int:
        return self.stage.epochs * self.steps_per_epoch

    def example_ids(self, batch: Batch) -> list[str]:
        """The examples of a batch, for an error message."""
        return [self.objective.setup.tables[batch.task].ids[row] for row in batch.rows.tolist()]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout and learning rate follow from the position alone, so a resumed step repeats them."""
        self.draw()
        self.lr = self.stage.lr * self.factor(self.state.position.steps)
        self.lr_by_part = set_lr(self.optimizer, self.lr)

    def draw(self, *parts: object) -> None:
        """Puts dropout where the position's step begins, on every rank alike. parts: what else it depends on, where a
        step begins more than once."""
        position = self.state.position
        self.model.draws = Draws(derive_seed(self.seed, self.stage.name, position.epoch, position.step, *parts))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self.trainer.optimizers[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss whose DDP average over ranks is the global batch's mean."""
        if self.memory:
            self.memory.batch = batch
        total, count = self.objective.loss(batch, self.place)
        self._unused = self._elsewhere[batch.task]
        if self.trainer.world_size > 1:  # DDP waits for a gradient of every trained weight
            for weight in self._unused:
                total = total + 0.0 * weight.sum()
        return self.global_means([batch], [(total, count)])[0]

    def global_means(self, batches: Sequence[Batch], found: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """A loss a batch, whose average over ranks is the mean of the whole global batch, weighted as the stage says.

        found: what the objective made of each of the rank's slices. The host does not wait for the device here: what it
        has to know of the losses is read when the backward pass has been asked for.
        """
        totals = [self._weighted(batch.task, total) for batch, (total, _) in zip(batches, found, strict=True)]
        self._step_losses = StepLosses(batches, totals, [count for _, count in found], self.wants_stop())
        weights = [self._learned_weight(batch.task) * self.trainer.world_size for batch in batches]
        shares = self._step_losses.shares(weights)
        return [total * share.to(total.dtype) for total, share in zip(totals, shares, strict=True)]

    def read_losses(self) -> None:
        """Takes from the device what all ranks have of the step's batches. Raises NonFiniteLoss, on all ranks."""
        assert self._step_losses
        losses, self._step_losses, self._means = self._step_losses, None, {}
        found = losses.read()
        self.stopping = any(one.stops > 0 for one in found)
        self._examples = math.fsum(one.examples for one in found)
        self._fed = " ".join(f"{batch.task} {int(one.fed)}" for batch, one in zip(losses.batches, found, strict=True))
        for batch, own, one in zip(losses.batches, losses.totals, found, strict=True):
            if not math.isfinite(one.total):
                raise NonFiniteLoss(self._non_finite(batch, own))
            self._note(batch.task, one.total, one.counted)
            self._means |= {batch.task: one.total / one.counted} if one.counted else {}
        self.loss = math.fsum(self._means.values()) / len(found)

    def _learned_weight(self, task: str) -> float:
        return self.uncertainty.factor(task) if self.uncertainty else 1.0

    def _weighted(self, task: str, total: Tensor) -> Tensor:
        """A loss times the weight that the stage gives it; learned weights come later, and are not part of a curve."""
        given = self.stage.loss_weights
        return total * given.get(task, 1.0) if isinstance(given, dict) else total

    def _note(self, task: str, loss: float, counted: float) -> None:
        sums = self.task_losses.setdefault(task, [0.0, 0.0])
        sums[0] += loss
        sums[1] += counted

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Reads the losses, and leaves what is not to learn unstepped, neither decayed nor moved by old momentum: heads
        that the batch did not use, and layers that gradual unfreezing has not come to (ULMFiT: Howard and Ruder, 2018,
        section 3.3).

        The gradients of what stays unstepped are computed nonetheless: DDP expects the same ones at every step.
        """
        self.read_losses()
        for weight in [*self._unused, *self._resting()]:
            weight.grad = None

    def _resting(self) -> list[nn.Parameter]:
        """The weights below the layers that learn in this epoch."""
        if self.stage.unfreeze is None:
            return []
        deepest, layers = (self.state.position.epoch + 1) * self.stage.unfreeze, self.model.layers
        return [weight for name, weight in self.model.named_parameters() if depth_of(name, layers) > deepest]

    def _non_finite(self, batch: Batch, total: Tensor) -> str:
        """The message of a loss that is not finite: task, step and examples, gathered from the ranks, since each knows
        only its own, and all of them stop here."""
        position = self.state.position
        mine = None if torch.isfinite(total) else f"{total.item()}; examples {', '.join(self.example_ids(batch))}"
        found: list[str | None] = [mine]
        if self.trainer.world_size > 1:
            found *= self.trainer.world_size
            dist.all_gather_object(found, mine)
        facts = "; ".join(fact for fact in found if fact)
        where = f"stage '{self.stage.name}', task '{batch.task}', epoch {position.epoch}, step {position.steps}"
        return f"{where}: the loss is {facts or 'not finite in sum'}"

    def on_train_epoch_start(self) -> None:
        self.state = self.state.rolled(self.steps_per_epoch)
        self._began = time.monotonic()

    def optimizer_step(  # type: ignore[override]
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]
    ) -> None:
        """A step is done when the optimizer has stepped: the position moves on, before any callback looks."""
        if self.memory and self.trainer.world_size == 1:  # else other ranks wait for this one's gradients
            optimizer_closure = partial(self.memory.again, optimizer_closure, self.draw)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.objective.stepped()
        if self.uncertainty:
            self.uncertainty.step(self._means, self.factor(self.state.position.steps))
        now = time.monotonic()
        position = self.state.position
        self.state = replace(
            self.state,
            position=replace(position, step=position.step + 1, steps=position.steps + 1),
            seconds=self.state.seconds + now - self._began,
            examples=self.state.examples + int(self._examples),
            seen=_chained(self.state.seen, self._fed),
        )
        if self._average:
            self._average.stepped(self.model.trained_weights(), position.step + 1 == self.steps_per_epoch)
        self._began = now

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Within it, the model has the weights that are measured: their running mean, where the stage keeps one."""
        mean = self._average.mean() if self._average else {}
        before = {name: weight.clone() for name, weight in self.model.trained_weights().items()} if mean else {}
        self._put(mean)
        try:
            yield
        finally:
            self._put(before)

    def settle(self) -> None:
        """Puts the weights that are measured into the model for good: the stage is trained."""
        self._put(self._average.mean() if self._average else {})

    def settle_on(self, checkpoint: Checkpoint) -> None:
        """Puts the weights that were measured at a checkpoint into the model for good."""
        self.model.load_trained(checkpoint.weights)
        if self._average:
            self._average.restore(checkpoint.average)
            self.settle()

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        trained = self.model.trained_weights()
        for name, value in weights.items():
            trained[name].copy_(value)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(
            self.model.named_parameters(),
            lr=self.stage.lr,
            weight_decay=self.stage.weight_decay,
            betas=self.stage.betas,
            eps=self.stage.eps,
            fused=self.stage.fused,
            part_of=self._lr_part if says(self.stage, "layer_decay") or self.stage.lr_scale else None,
        )
        if self._resumed:
            restore_moments(optimizer, self.model, self._resumed.optimizer)
            if self.state.scaler:
                self.trainer.precision_plugin.load_state_dict(self.state.scaler)
            self.take(self._resumed.extra)
            self._resumed = None  # as large as the model and its optimizer together
        return optimizer

    def _lr_part(self, name: str) -> tuple[str, float]:
        scale = self.stage.lr_scale.factors if self.stage.lr_scale else {}
        return lr_part(name, self.model.layers, self.stage.layer_decay, scale)

    def checkpoint(self, records: Sequence[Record] = ()) -> Checkpoint:
        """Everything that resuming needs, by reference. records: what was measured so far."""
        scaler = self.trainer.precision_plugin.state_dict()
        losses = {task: [*pair] for task, pair in self.task_losses.items()}
        plain, tensors = self.own.kept()
        state = replace(self.state, scaler=scaler, losses=losses, part_tokens=self.model.part_tokens, callbacks=plain)
        measured = [record.to_json() for record in records]
        average = self._average.state() if self._average else {}
        optimizer = moments(self.optimizer, self.model)
        return Checkpoint(state, self.model.trained_weights(), optimizer, {**self.kept(), **tensors}, measured, average)

    def kept(self) -> dict[str, Tensor]:
        """Tensors that a resumed stage needs beside weights and moments, by name."""
        learned = self.uncertainty.state() if self.uncertainty else {}
        return {**self.objective.state(), **{f"{LEARNED}{task}": tensor for task, tensor in learned.items()}}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `kept` gave."""
        self.objective.restore({name: tensor for name, tensor in tensors.items() if "/" not in name})
        if self.uncertainty:
            self.uncertainty.restore(
                {name.removeprefix(LEARNED): tensor for name, tensor in tensors.items() if name.startswith(LEARNED)}
            )

    def log_variances(self) -> dict[str, float]:
        """TensorBoard's tag -> a task's learned log-variance, where the stage learns its losses' weights."""
        found = self.uncertainty.logs if self.uncertainty else {}
        return {f"train/log_variance_{task}": float(log.detach()) for task, log in found.items()}

    def restore_losses(self) -> None:
        """The tasks' losses since the last point of their curves, as the checkpoint holds them."""
        self.task_losses = {task: [*pair] for task, pair in self.state.losses.items()}

    def gradient_norm(self) -> float:
        return float(nn.utils.get_total_norm([w.grad for w in self.model.parameters() if w.grad is not None]))
