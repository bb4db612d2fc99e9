"""A stage's teachers: what they say of the training examples, before the first step."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_modules.data import StageData
from lightning_modules.dev import counter, kept
from lightning_modules.module import StageModule
from lightning_modules.progress import Throttle
from multitask.bundle.bundle import read_bundle
from multitask.data.tokens import load_tokens
from multitask.experiment.features import FeatureCache
from multitask.experiment.stage_job import JobTeacher
from multitask.experiment.teachers import said_of, taught, teacher_key, teacher_model
from multitask.measure.ensembles import mixed
from multitask.measure.evaluate import EvalSet
from multitask.objectives.ranks import sum_over_ranks
from multitask.objectives.supervised import Supervised


class Teaching(Callback):
    """Tells the objective what its tasks' teachers say, by way of the cache. A teacher, or an ensemble's member, is in
    memory only while it is asked."""

    def __init__(self, data: StageData, throttle: Throttle) -> None:
        self.data, self.throttle = data, throttle

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        if module.state.position.epoch >= module.stage.epochs:
            return
        assert isinstance(module.objective, Supervised)
        for task, teacher in module.stage.teachers.items():
            values = self._values(trainer, module, task)
            found = taught(values, self.data.tables[task], self.data.rows[task], teacher)
            module.objective.taught[task] = found

    def _values(self, trainer: pl.Trainer, module: StageModule, task: str) -> Tensor:
        """What the task's teacher says of its examples; of an ensemble, what the mixture of its members does."""
        members = self.data.job.data.teachers[task]
        said = [self._said(trainer, module, task, member) for member in members]
        if len(said) == 1:
            return said[0]
        return mixed(said, [member.share for member in members], module.model.specs[task].label).float()

    def _said(self, trainer: pl.Trainer, module: StageModule, task: str, job: JobTeacher) -> Tensor:
        teacher, rows = module.stage.teachers[task], self.data.rows[task]

        def computed() -> Tensor:
            device, epoch = module.device, module.state.position.epoch
            table = load_tokens(self.data.storage, job.tokens)
            bundle = read_bundle(self.data.storage, job.bundle)
            data = EvalSet.of(task, table, device.type, trainer.global_rank, trainer.world_size, rows)
            model = teacher_model(bundle, module.model.specs[task], teacher, device)
            progress = counter(self.throttle, module, f"teacher {task}", data, epoch)
            return said_of(model, data, rows, teacher, device, sum_over_ranks, progress)

        cache = FeatureCache(self.data.storage, teacher_key(job, task, teacher))
        return kept(cache, trainer, job.tokens, rows, computed)
