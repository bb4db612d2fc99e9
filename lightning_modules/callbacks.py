"""What happens around a stage's steps: going on, measuring, saving, telling."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.base import StageModule, sum_over_ranks
from lightning_modules.data import StageData
from lightning_modules.progress import Interrupted, Progress, Throttle
from lightning_modules.records import Record, chosen, write_records
from lightning_modules.tensorboard import EventLog
from multitask.checkpoints import Checkpoint, CheckpointStore
from multitask.evaluate import EvalSet, encode_sentences, measure
from multitask.recipe import KeepBest
from multitask.storage import Storage

LOG_STEPS = 10


class Resume(Callback):
    """Puts the optimizer where the checkpoint left it, and makes DDP's summation order the same from step one."""

    def __init__(self, checkpoint: Checkpoint | None, data: StageData) -> None:
        self.checkpoint, self.data = checkpoint, data

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        if self.checkpoint is not None:
            module.restore_optimizer(self.checkpoint)
            self.checkpoint = None  # as large as the model and its optimizer together
        if trainer.world_size > 1:
            steps: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(steps, module.state.position.steps)
            if len(set(steps)) > 1:
                raise RuntimeError(f"ranks found different newest checkpoints, at steps {steps}")

    def on_train_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        """Two discarded passes: DDP regroups its buckets after the first backward, and from three ranks on
        another grouping adds gradients up in another order; a resumed stage would differ in the last bits."""
        if trainer.world_size < 3:
            return
        slices = self.data.slices(0, 0, trainer.global_rank, trainer.world_size)
        for _ in range(2):
            loss = trainer.strategy.training_step(slices[0].to(module.device), 0)
            assert isinstance(loss, torch.Tensor)
            loss.backward()
        module.zero_grad()


class DevMetrics(Callback):
    """Measures every task's dev set: before training where the job says so, after epochs as `validate` says."""

    def __init__(
        self, data: StageData, folder: Storage, records: list[Record], throttle: Throttle, measure_start: bool
    ) -> None:
        self.data, self.folder, self.records = data, folder, records
        self.throttle, self.measure_start = throttle, measure_start
        self._encoding = 0.0  # seconds spent on encoding for a frozen stage, told with the next measurement

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        device = module.device
        self.data.prepare_dev(device.type, trainer.global_rank, trainer.world_size)
        position = module.state.position
        if self.measure_start and not self.records:
            self._measure(trainer, module, epoch=0, steps=0)
        if module.model.encoder_frozen:
            self._encode_once(trainer, module)
        # Stopped between an epoch's last step and its measurement: that comes first.
        measured = any(record.steps == position.steps for record in self.records)
        if position.steps and position.step == 0 and not measured and self._wanted(module, position.epoch):
            self._measure(trainer, module, epoch=position.epoch, steps=position.steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        done = module.state.position.epoch + 1
        if self._wanted(module, done):
            self._measure(trainer, module, epoch=done, steps=module.state.position.steps)

    @staticmethod
    def _wanted(module: StageModule, done: int) -> bool:
        return module.stage.validate_every == "epoch" or done == module.stage.epochs

    def _encode_once(self, trainer: pl.Trainer, module: StageModule) -> None:
        """A frozen encoder is a fixed function: its sentences are encoded once, not in every epoch."""
        data, model, device = self.data, module.model, module.device
        began = time.monotonic()
        autocast, epoch = trainer.precision_plugin.forward_context, module.state.position.epoch
        for task, dev in data.dev.items():
            data.dev[task] = dev.encoded(
                model, device, autocast, self._counter(trainer, module, f"encode {task}", dev, epoch)
            )
        if not model.uses_tokens(data.task) and epoch < module.stage.epochs:
            train = EvalSet.of(data.task, data.table, device.type, trainer.global_rank, trainer.world_size, data.rows)
            progress = self._counter(trainer, module, f"encode {data.task} train", train, epoch)
            data.features = encode_sentences(
                model, train, device=device, autocast=autocast, reduce=sum_over_ranks, progress=progress
            )
        self._encoding = time.monotonic() - began

    def _counter(
        self, trainer: pl.Trainer, module: StageModule, doing: str, data: EvalSet, epoch: int
    ) -> Callable[[int], None]:
        total = sum(len(batch) for batch in data.batches)
        return self.throttle.counter(module.stage, doing, epoch, total, alone=trainer.world_size == 1)

    def _measure(self, trainer: pl.Trainer, module: StageModule, epoch: int, steps: int) -> None:
        began = time.monotonic()
        result = measure(
            module.model,
            self.data.dev,
            device=module.device,
            autocast=trainer.precision_plugin.forward_context,
            reduce=sum_over_ranks,
            progress={
                task: self._counter(trainer, module, f"dev {task}", data, epoch) for task, data in self.data.dev.items()
            },
        )
        seconds, self._encoding = self._encoding + time.monotonic() - began, 0.0
        self.records.append(Record(epoch, steps, seconds, result.metrics, result.why))
        if trainer.is_global_zero:
            write_records(self.folder, self.records)


class Checkpointing(Callback):
    """Saves every N minutes or steps, at every epoch's end, and when asked to stop. Rank 0 alone writes."""

    def __init__(self, store: CheckpointStore, records: list[Record]) -> None:
        self.store, self.records = store, records
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        if trainer.is_global_zero and (module.stopping or self._due(module)):
            self._save(module)
        if module.stopping:
            self.store.flush()
            raise Interrupted(module.stage.name)

    def on_exception(self, trainer: pl.Trainer, module: StageModule, exception: BaseException) -> None:  # type: ignore[override]
        """SIGTERM: Lightning tells all ranks and raises this between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.is_global_zero and trainer.training:
            self._save(module)
            self.store.flush()

    def _due(self, module: StageModule) -> bool:
        position, stage = module.state.position, module.stage
        at_end = position.step == module.steps_per_epoch
        enough = bool(stage.checkpoint_steps) and position.steps % (stage.checkpoint_steps or 1) == 0
        return at_end or enough or (time.monotonic() - self._last) / 60 >= stage.checkpoint_minutes

    def _save(self, module: StageModule) -> None:
        best = chosen(self.records, module.stage) if isinstance(module.stage.keep, KeepBest) else None
        self.store.pinned = {best.steps} if best else set()
        self.store.save(module.checkpoint())
        self._last = time.monotonic()


class Telling(Callback):
    """The progress line and TensorBoard's scalars, from rank 0. Comes after those that do what it tells."""

    def __init__(self, folder: Storage, throttle: Throttle, records: list[Record]) -> None:
        self.folder, self.throttle, self.records = folder, throttle, records
        self.events: EventLog | None = None
        self._norm = math.nan
        self._mark = (0.0, 0)

    def setup(self, trainer: pl.Trainer, module: StageModule, stage: str) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            self.events = EventLog(self.folder, purge=module.state.position.steps)
        else:
            self.throttle.mute()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def on_fit_end(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.events:
            self.events.close()
            self.events = None

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        self._tell_dev(since=0)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        self._mark = (module.state.seconds, module.state.examples)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        if self.events and (module.state.position.steps + 1) % LOG_STEPS == 0:
            self._norm = module.gradient_norm()

    def on_train_batch_end(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        state, stage = module.state, module.stage
        steps = state.position.steps
        speed = self._speed(module)
        if self.events and steps % LOG_STEPS == 0:
            scalars = {
                "train/loss": module.loss,
                "train/lr": module.optimizer.param_groups[0]["lr"],
                "train/gradient_norm": self._norm,
                "train/examples_per_second": speed,
            }
            self.events.scalars(scalars, steps)
            self._mark = (state.seconds, state.examples)
        left = (module.total_steps - steps) * stage.batch_size / speed if speed else None
        line = Progress(
            stage.name, "step", state.position.epoch + 1, stage.epochs, state.position.step, module.steps_per_epoch,
            module.loss, speed, left,
        )  # fmt: skip
        self.throttle(line, now=steps == module.total_steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        self._tell_dev(since=module.state.position.steps)

    def _speed(self, module: StageModule) -> float | None:
        seconds, examples = module.state.seconds - self._mark[0], module.state.examples - self._mark[1]
        return examples / seconds if seconds > 0 else None

    def _tell_dev(self, since: int) -> None:
        for record in self.records:
            if self.events and record.steps >= since:
                self.events.scalars({f"dev/{name}": value for name, value in record.metrics.items()}, record.steps)
