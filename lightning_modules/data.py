"""A stage's data: token tables from the cache, the epoch's batches, the dev sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lightning_modules.module import StageModule
from multitask.data.batches import Batch, EpochSlices
from multitask.data.mixing import batches_in, plan_epoch, plan_together
from multitask.data.own_sampler import Epoch, OwnPlan
from multitask.data.samplers import Lengths, Rows, derive_seed, training_rows
from multitask.data.tokens import TokenTable, load_tokens
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob
from multitask.measure.evaluate import EvalSet
from multitask.objectives.base import Objective
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from multitask.tasks.own import known


def rows_of(table: TokenTable, cap: int | None, seed: int, task: str) -> Rows:
    """The rows of a training set that are used, ascending: at most `cap` with a label, equal ones whether or not rows
    without any follow, and at most as many of those."""
    known, seed_of_others = table.labelled, derive_seed(seed, "unlabelled")
    rows = training_rows(known, cap, seed, task)
    if known == len(table):  # no second copy of what may be many
        return rows
    return np.concatenate((rows, known + training_rows(len(table) - known, cap, seed_of_others, task)))


def _lengths(table: TokenTable, rows: Rows) -> Lengths:
    """The lengths of rows, ascending ones of the table; of all of them without a copy, since there may be many."""
    return table.lengths if len(rows) == len(table) else table.lengths[rows]


def check_alike(what: str, digest: Callable[[], str]) -> None:
    """Raises UserError where ranks do not have the same of something, by its hash."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, digest())
        if len({*found}) > 1:
            raise UserError(f"{what} is another on each rank; valid: one that goes by nothing but what it is given")


class StageData(pl.LightningDataModule):
    """The training batches of a stage's tasks, sliced for this rank, and every task's dev set.

    tables, rows: task -> its training examples, and which of them are used, as the stage's objective has them.
    """

    def __init__(self, job: StageJob, stage: Stage) -> None:
        super().__init__()
        self.job, self.stage = job, stage
        self.storage = Storage(job.owner.storage)
        examples, specs = {}, known(job.model.specs, "job")
        for task in stage.tasks:
            table = load_tokens(self.storage, job.data.train[task])
            rows = rows_of(table, stage.max_examples, job.seed, task)
            examples[task] = stage.learns.examples(stage.options, specs[task], table, rows)
        self.tables = {task: table for task, (table, _) in examples.items()}
        self.rows = {task: rows for task, (_, rows) in examples.items()}
        self.dev_tables = {task: load_tokens(self.storage, path) for task, path in job.data.dev.items()}
        self.dev: dict[str, EvalSet] = {}

    @cached_property
    def steps_per_epoch(self) -> int:
        if self.stage.sampler:
            first, again = (self._own_plan(self.stage.sampler, 0) for _ in range(2))
            first.check_again(again)
            return len(first)
        batches = sum(batches_in(len(rows), self.stage.batch_size) for rows in self.rows.values())
        return -(-batches // self.stage.batches_a_step)

    def slices(self, objective: Objective, epoch: int, start: int, rank: int, world: int) -> EpochSlices:
        """This rank's slices of an epoch's global batches, from step `start` on."""

        def make(task: str, places: Rows, weights: NDArray[np.float32], step: int) -> Batch:
            return objective.batch(task, self.rows[task][places], weights, f"epoch {epoch}, step {step}")

        together = self.stage.batches_a_step
        return EpochSlices(self._plan(epoch), make, rank=rank, world=world, start=start, together=together)

    def _plan(self, epoch: int) -> Sequence[tuple[str, Rows]]:
        """An epoch's global batches."""
        stage, seed = self.stage, self._seed(epoch)
        if stage.sampler:
            plan = self._own_plan(stage.sampler, epoch)
            plan.check_length(self.steps_per_epoch)
            check_alike(f"sampler '{stage.sampler}': the plan of epoch {epoch}", plan.digest)
            return plan
        if stage.batches_a_step > 1:
            return plan_together(self.lengths, stage.batch_size, seed, self.steps_per_epoch)
        return plan_epoch(stage.mixing, self.lengths, stage.batch_size, seed, epoch, stage.epochs)

    def _own_plan(self, sampler: str, epoch: int) -> OwnPlan:
        labels = {task: self.tables[task].labels.numpy()[rows] for task, rows in self.rows.items()}
        stage = self.stage
        return OwnPlan(sampler, Epoch(self.lengths, labels, stage.batch_size, self._seed(epoch), epoch, stage.epochs))

    def _seed(self, epoch: int) -> int:
        return derive_seed(self.job.seed, self.stage.name, epoch)

    @property
    def lengths(self) -> dict[str, Lengths]:
        """Task -> the lengths of its rows that are used."""
        return {task: _lengths(self.tables[task], rows) for task, rows in self.rows.items()}

    def train_dataloader(self) -> DataLoader[Any]:
        """The batches from the module's position on; Lightning asks anew for every epoch."""
        assert self.trainer is not None
        trainer, module = self.trainer, cast(StageModule, self.trainer.lightning_module)
        position = module.state.rolled(self.steps_per_epoch).position
        slices = self.slices(module.objective, position.epoch, position.step, trainer.global_rank, trainer.world_size)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(slices, batch_size=None, pin_memory=on_gpu)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """A batch, or one a task, on the device. Lightning would have the host wait at each of its tensors."""
        several, early = batch if isinstance(batch, list) else [batch], device.type == "cuda"
        moved = [part.to(device, non_blocking=early) for part in several]
        return moved if isinstance(batch, list) else moved[0]
