"""A stage's data: token tables from the cache, the epoch's batches, the dev sets."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.base import StageModule
from multitask.data.batches import Batch, EpochSlices
from multitask.data.samplers import derive_seed, epoch_batches, subset
from multitask.data.tokens import TokenTable, load_tokens
from multitask.evaluate import EvalSet
from multitask.experiment import StageJob
from multitask.recipe import Stage
from multitask.storage import Storage


class StageData(pl.LightningDataModule):
    """The training batches of a stage's task, sliced for this rank, and every task's dev set."""

    def __init__(self, job: StageJob, stage: Stage) -> None:
        super().__init__()
        storage = Storage(job.storage)
        self.job, self.stage = job, stage
        self.train_tables = {task: load_tokens(storage, job.train[task]) for task in stage.tasks}
        self.dev_tables = {task: load_tokens(storage, path) for task, path in job.dev.items()}
        self.task = stage.tasks[0]
        self.rows = subset(len(self.table), stage.max_examples, derive_seed(job.seed, "max_examples", self.task))
        self.features: Tensor | None = None  # all training sentences' encodings, where the encoder is frozen
        self.dev: dict[str, EvalSet] = {}

    @property
    def table(self) -> TokenTable:
        return self.train_tables[self.task]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.stage.batch_size)

    def prepare_dev(self, device: str, rank: int, world: int) -> None:
        self.dev = {task: EvalSet.of(task, table, device, rank, world) for task, table in self.dev_tables.items()}

    def slices(self, epoch: int, start: int, rank: int, world: int) -> EpochSlices:
        """This rank's slices of an epoch's global batches, from step `start` on."""
        seed = derive_seed(self.job.seed, self.stage.name, epoch)
        batches = epoch_batches(self.table.lengths[self.rows], self.stage.batch_size, seed)
        batches = [self.rows[np.asarray(batch)] for batch in batches]
        return EpochSlices(self.task, self.table, batches, rank=rank, world=world, start=start, features=self.features)

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches from the module's position on; Lightning asks anew for every epoch."""
        assert self.trainer is not None
        trainer, module = self.trainer, cast(StageModule, self.trainer.lightning_module)
        position = module.state.rolled(self.steps_per_epoch).position
        slices = self.slices(position.epoch, position.step, trainer.global_rank, trainer.world_size)
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(slices, batch_size=None, pin_memory=on_gpu)
