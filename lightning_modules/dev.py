"""Dev metrics: when every task's dev set is measured, and the encodings of a frozen encoder that this rests on."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_modules.data import StageData
from lightning_modules.module import StageModule
from lightning_modules.progress import Throttle
from multitask.data.batches import Features
from multitask.data.samplers import Rows
from multitask.data.tokens import TokenTable
from multitask.experiment.features import FeatureCache, encoder_key
from multitask.experiment.records import Record, out_of_patience, write_records
from multitask.experiment.stage_job import StageJob
from multitask.measure.evaluate import EvalSet, encode_sentences, feature_places, measure
from multitask.measure.metrics import OVERALL_OF, Predicted
from multitask.objectives.ranks import sum_over_ranks

AGREE_EVERY = 8  # batches of a measurement on several ranks, of some tenths of a second each


def any_rank(stop: bool) -> bool:
    """Whether any rank says `stop`; every rank has to ask."""
    return bool(sum_over_ranks(torch.tensor(float(stop))))


def counter(throttle: Throttle, module: StageModule, doing: str, data: EvalSet, epoch: int) -> Callable[[int], None]:
    """Reports how many of this rank's examples are done; to be called after every batch."""
    total = sum(len(batch) for batch in data.batches)
    every = AGREE_EVERY if module.trainer.world_size > 1 else 1
    return throttle.counter(module.stage, doing, epoch, total, every, data.common, any_rank)


def kept(cache: FeatureCache, trainer: pl.Trainer, path: str, rows: Rows, compute: Callable[[], Tensor]) -> Tensor:
    """What the cache has of the rows `rows` of the token cache at `path`; unless every rank finds it, what all of them
    compute."""
    found = cache.load(path, rows)
    everywhere = int(sum_over_ranks(torch.tensor(float(found is not None)))) == trainer.world_size
    if found is None or not everywhere:
        found = compute()
        if trainer.is_global_zero:
            cache.save(path, rows, found)
    return found


class FrozenEncoder:
    """Sentences through the module's encoder as it stands, by way of the cache; heads that read tokens need more."""

    def __init__(
        self, trainer: pl.Trainer, module: StageModule, data: StageData, throttle: Throttle, epoch: int
    ) -> None:
        self.trainer, self.module, self.data, self.throttle, self.epoch = trainer, module, data, throttle, epoch
        self.cache = FeatureCache(data.storage, encoder_key(module.model, str(trainer.precision)))

    def dev(self) -> None:
        """Puts encodings in the place of the dev sets' tokens."""
        for task, dev in self.data.dev.items():
            if not self.module.model.uses_tokens(task):
                rows = np.arange(len(dev.table))
                features = self._features(f"encode {task}", task, dev.table, self.data.job.data.dev[task], rows)
                self.data.dev[task] = dev.with_features(features)

    def train(self) -> None:
        """Lets the module make its training batches from encodings."""
        for task, table in self.data.tables.items():
            if not self.module.model.uses_tokens(task):
                self.module.objective.features[task] = self._features(
                    f"encode {task} train", task, table, self.data.job.data.train[task], self.data.rows[task]
                )

    def _features(self, doing: str, task: str, table: TokenTable, path: str, rows: Rows) -> Features:
        trainer = self.trainer

        def encoded() -> Tensor:
            data = EvalSet.of(task, table, self.module.device.type, trainer.global_rank, trainer.world_size, rows)
            return encode_sentences(
                self.module.model,
                data,
                rows,
                device=self.module.device,
                autocast=trainer.precision_plugin.forward_context,
                reduce=sum_over_ranks,
                progress=counter(self.throttle, self.module, doing, data, self.epoch),
            )

        return Features(kept(self.cache, trainer, path, rows, encoded), feature_places(rows, table))


class DevMetrics(Callback):
    """Measures every task's dev set: before training where the job says so, after epochs as `validate` says.

    predicted: task -> what the newest record rests on, empty where this attempt has measured nothing. untold: on rank
    0, whether what was measured after that many steps was lost before it was told; it is measured again, since its
    curves need the logits.
    """

    def __init__(
        self,
        data: StageData,
        job: StageJob,
        records: list[Record],
        throttle: Throttle,
        tell: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.data, self.job, self.records, self.throttle, self.tell = data, job, records, throttle, tell
        self.predicted: dict[str, Predicted] = {}
        self.untold: Callable[[int], bool] = lambda steps: False
        self._encoding = 0.0  # seconds spent on encoding for a frozen stage, told with the next measurement

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        device = module.device
        rank, world = trainer.global_rank, trainer.world_size
        self.data.dev = {
            task: EvalSet.of(task, table, device.type, rank, world) for task, table in self.data.dev_tables.items()
        }
        position, known = module.state.position, len(self.records)
        if any_rank(self.untold(position.steps)):
            self.records[:] = [record for record in self.records if record.steps != position.steps]
        if module.model.encoder_frozen:
            self._encode_once(trainer, module)
        # A sweep's plan does not ask again for a start that it finds measured: one that is dropped here counts, too.
        dropped = not position.steps and len(self.records) < known
        if (self.job.measure_start or dropped) and not self.records:
            self._measure(trainer, module, epoch=0, steps=0)
        # Ended between an epoch's last step and its measurement: that comes first.
        measured = any(record.steps == position.steps for record in self.records)
        if position.steps and position.step == 0 and not measured and self._wanted(module, position.epoch):
            self._measure(trainer, module, epoch=position.epoch, steps=position.steps)
        self._judge(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        done = module.state.position.epoch + 1
        if self._wanted(module, done):
            self._measure(trainer, module, epoch=done, steps=module.state.position.steps)
            self._judge(trainer, module)

    def _judge(self, trainer: pl.Trainer, module: StageModule) -> None:
        """Ends training where the stage has run out of patience: all ranks have the same records, before a resume and
        after it."""
        trainer.should_stop = trainer.should_stop or out_of_patience(self.records, module.stage)

    def on_fit_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        """From here on, what comes after reads the weights that were measured last."""
        module.settle()

    @staticmethod
    def _wanted(module: StageModule, done: int) -> bool:
        return module.stage.validate_every == "epoch" or done == module.stage.epochs

    def _encode_once(self, trainer: pl.Trainer, module: StageModule) -> None:
        """Encodes all sentences that a stage with a frozen encoder uses: a fixed function is computed once, not in
        every epoch."""
        began, epoch = time.monotonic(), module.state.position.epoch
        encoder = FrozenEncoder(trainer, module, self.data, self.throttle, epoch)
        encoder.dev()
        if module.objective.uses_head and epoch < module.stage.epochs:
            encoder.train()
        self._encoding = time.monotonic() - began

    def _measure(self, trainer: pl.Trainer, module: StageModule, epoch: int, steps: int) -> None:
        with module.judged():
            self._measure_as_it_is(trainer, module, epoch, steps)
        if trainer.is_global_zero:
            write_records(self.data.job.folder, self.records)
        self.tell(self.records[-1])

    def _measure_as_it_is(self, trainer: pl.Trainer, module: StageModule, epoch: int, steps: int) -> None:
        began, autocast = time.monotonic(), trainer.precision_plugin.forward_context
        if self.job.keep_features and epoch == module.stage.epochs:  # a stage that freezes this encoder comes next
            FrozenEncoder(trainer, module, self.data, self.throttle, epoch).dev()
        result = measure(
            module.model,
            self.data.dev,
            device=module.device,
            autocast=autocast,
            reduce=sum_over_ranks,
            progress={
                task: counter(self.throttle, module, f"dev {task}", data, epoch) for task, data in self.data.dev.items()
            },
            overall_of=self.job.overall or OVERALL_OF,
            measures=self.job.measures,
        )
        own = module.own_metrics(self.data.dev_tables, autocast) if steps else {}
        seconds, self._encoding = self._encoding + time.monotonic() - began, 0.0
        self.predicted = result.predicted
        self.records.append(Record(epoch, steps, seconds, result.scores | own))
