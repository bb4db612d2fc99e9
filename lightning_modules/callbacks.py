"""What happens around a stage's steps: going on, measuring, saving, telling."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.data import StageData
from lightning_modules.dev import DevMetrics
from lightning_modules.module import StageModule
from lightning_modules.progress import Interrupted, Progress, Throttle
from lightning_modules.summary import BEST, tell_curves, tell_results, tell_sentences, tell_settings
from lightning_modules.tensorboard import EventLog
from multitask.experiment.checkpoints import CheckpointStore
from multitask.experiment.records import Record, chosen
from multitask.recipe.settings import KeepBest

log = logging.getLogger(__name__)
LOG_STEPS = 10
LEAVING_STEPS = 10  # between two looks at whether a node is about to be taken away; all ranks wait for each other there
LEAVING_SECONDS = 10.0  # between two checkpoints when it is: no more than that is done twice


class Resume(Callback):
    """Sees to it that all ranks go on from one checkpoint, and makes DDP's summation order the same from step one.

    Rank 0 first becomes the stage's writer; one that was thought dead finds another's name at the fence.
    """

    def __init__(self, data: StageData) -> None:
        self.data = data

    def setup(self, trainer: pl.Trainer, module: StageModule, stage: str) -> None:  # type: ignore[override]
        if trainer.is_global_zero:
            module.job.owner.claim()

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        if trainer.world_size > 1:
            steps: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(steps, module.state.position.steps)
            if len(set(steps)) > 1:
                raise RuntimeError(f"ranks found different newest checkpoints, at steps {steps}")

    def on_train_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        """Has the device's memory looked at, where the stage asks for it. Then makes two passes that are discarded: DDP
        regroups its buckets after the first backward, and from three ranks on another grouping adds gradients up in
        another order; a resumed stage would differ in the last bits."""
        module.look_at_memory()
        if trainer.world_size < 3 or module.stage.surgery != "none":  # surgery adds up by itself, not in buckets
            return
        slices = self.data.slices(module.objective, 0, 0, trainer.global_rank, trainer.world_size)
        for _ in range(2):
            loss = trainer.strategy.training_step(slices[0].to(module.device), 0)
            assert isinstance(loss, torch.Tensor)
            loss.backward()
        module.zero_grad()
        module.restore_losses()


class Checkpointing(Callback):
    """Saves every N minutes or steps, at every epoch's end, when asked to stop, and every few seconds while a node is
    about to be taken away. Rank 0 alone writes.

    Training does not wait for a snapshot that is still on its way to the storage, but at an epoch's end and to stop:
    one that comes due meanwhile is taken when that has landed. What stopped an upload ends the next step.
    """

    def __init__(
        self, store: CheckpointStore, records: list[Record], leaving: Callable[[], bool] = lambda: False
    ) -> None:
        self.store, self.records, self.leaving = store, records, leaving
        self._last, self._owed, self._left = time.monotonic(), False, False

    def on_train_batch_end(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        if not self._left and module.state.position.steps % LEAVING_STEPS == 0 and self.leaving():
            self._left = self._owed = True
            if trainer.is_global_zero:
                log.warning("a node of this run is about to be taken away: saving now and every %g s", LEAVING_SECONDS)
        if trainer.is_global_zero:
            self.store.check()
            self._owed = self._owed or self._due(module)
            must = module.stopping or module.state.position.step == module.steps_per_epoch
            if must or (self._owed and not self.store.busy):
                self._save(module)
        if module.stopping:
            self.store.flush()
            raise Interrupted(module.stage.name)

    def on_exception(self, trainer: pl.Trainer, module: StageModule, exception: BaseException) -> None:  # type: ignore[override]
        """Saves at SIGTERM, which Lightning tells all ranks of and raises between two steps."""
        if isinstance(exception, SIGTERMException) and trainer.is_global_zero and trainer.training:
            self._save(module)
            self.store.flush()

    def _due(self, module: StageModule) -> bool:
        position, stage = module.state.position, module.stage
        enough = bool(stage.checkpoint_steps) and position.steps % (stage.checkpoint_steps or 1) == 0
        every = LEAVING_SECONDS if self._left else stage.checkpoint_minutes * 60
        return enough or time.monotonic() - self._last >= every

    def _save(self, module: StageModule) -> None:
        best = chosen(self.records, module.stage) if isinstance(module.stage.keep, KeepBest) else None
        self.store.pinned = {best.steps} if best else set()
        self.store.save(module.checkpoint(self.records))
        self._last, self._owed = time.monotonic(), False


class Telling(Callback):
    """The progress line and TensorBoard's events, from rank 0.

    Comes after the measurements that it tells, and before the checkpoints: before one counts, the events of all steps
    that it covers are copied. What lies beyond it is hidden when the stage goes on from there, and told again.
    """

    def __init__(self, throttle: Throttle, dev: DevMetrics, store: CheckpointStore) -> None:
        self.throttle, self.dev, self.records, self.store = throttle, dev, dev.records, store
        self.dev.untold = self._lost
        self.events: EventLog | None = None
        self._norm = math.nan
        self._mark = (0.0, 0)
        self._told = 0  # how many of the records, in this process

    def setup(self, trainer: pl.Trainer, module: StageModule, stage: str) -> None:  # type: ignore[override]
        if not trainer.is_global_zero:
            self.throttle.mute()
            return
        self.events = EventLog(module.job.events, purge=module.state.position.steps + 1)
        self.store.before = self.events.copy_now
        if module.job.settings:
            self.events.settings(module.job.settings, f"dev/{module.job.by}", BEST)
        tell_settings(self.events, module)
        self.events.copy()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def on_fit_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        """Tells the stage's end, also where it was killed behind its last step and has nothing left to train."""
        if self.events and self.records:
            module.to(trainer.strategy.root_device)  # Lightning has taken it off its device by now
            steps, tables = self.records[-1].steps, self.dev.data.dev_tables
            tell_results(self.events, self.records[-1], tables)
            if not module.job.settings:  # of a sweep's trials the best is looked at, with `minibert report`
                tell_sentences(self.events, module, tables, trainer.precision_plugin.forward_context, steps)
        self._close()

    def _close(self) -> None:
        if self.events:
            self.events.close()
            self.events = None

    def on_fit_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        self._tell_dev()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        self._mark = (module.state.seconds, module.state.examples)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        if self.events and (module.state.position.steps + 1) % LOG_STEPS == 0:
            self._norm = module.gradient_norm()

    def on_train_batch_end(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        state, stage = module.state, module.stage
        steps = state.position.steps
        speed = self._speed(module)
        if self.events:
            self.events.scalars(module.told, steps)
        module.told.clear()
        if self.events and steps % LOG_STEPS == 0:
            scalars = {
                "train/loss": module.loss,
                "train/lr": module.lr,
                **{f"train/lr_{part}": rate for part, rate in module.lr_by_part.items()},
                "train/gradient_norm": self._norm,
                "train/examples_per_second": speed,
            }
            if len(stage.tasks) > 1:  # each task's own, the mean since the last time
                sums = {task: pair for task, pair in module.task_losses.items() if pair[1]}
                scalars |= {f"train/loss_{task}": total / count for task, (total, count) in sums.items()}
            scalars |= module.log_variances()
            module.task_losses.clear()
            self.events.scalars(scalars, steps)
            self._mark = (state.seconds, state.examples)
        left = (module.total_steps - steps) * stage.batch_size * stage.batches_a_step / speed if speed else None
        line = Progress(
            stage.name, "step", state.position.epoch + 1, stage.epochs, state.position.step, module.steps_per_epoch,
            module.loss, speed, left,
        )  # fmt: skip
        self.throttle(line, now=steps == module.total_steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        self._tell_dev()

    def _speed(self, module: StageModule) -> float | None:
        seconds, examples = module.state.seconds - self._mark[0], module.state.examples - self._mark[1]
        return examples / seconds if seconds > 0 else None

    def _lost(self, steps: int) -> bool:
        """Whether TensorBoard shows nothing of what was measured after that many steps: a kill came between
        metrics.jsonl and the events."""
        shown = self.events.shown if self.events else ()
        return self.events is not None and not any(at == steps and tag.startswith("dev/") for tag, at in shown)

    def _tell_dev(self) -> None:
        """Tells what was newly measured, curves first: where a kill cuts the copy short, scalars that are there say
        that the curves are too."""
        new, self._told = self.records[self._told :], len(self.records)
        if not self.events or not new:
            return
        tell_curves(self.events, self.dev.predicted, self.dev.data.dev_tables, new[-1].steps)
        for record in new:
            self.events.scalars({f"dev/{name}": value for name, value in record.metrics.items()}, record.steps)
        self.events.copy()
