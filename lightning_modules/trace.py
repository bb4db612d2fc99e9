"""A trace of what every rank was fed, for tests of recovery and for finding out: MINIBERT_TRACE=FOLDER turns it on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.module import StageModule
from multitask.data.batches import Batch

VARIABLE = "MINIBERT_TRACE"


class Trace(Callback):
    """Writes a line a step and rank into a file of this process in a local folder: the optimizer step just done, the
    stage, the rank, how many there are, the time, and the ids of its examples."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.file = open(Path(folder) / f"{os.uname().nodename}-{os.getpid()}.jsonl", "a", buffering=1)  # noqa: SIM115

    def on_train_batch_end(self, trainer: pl.Trainer, module: StageModule, outputs: Any, batch: Any, *_: Any) -> None:  # type: ignore[override]
        for part in batch if isinstance(batch, list) else [batch]:  # a batch a task, where a step takes several
            self._write(trainer, module, part)

    def _write(self, trainer: pl.Trainer, module: StageModule, batch: Batch) -> None:
        used = (batch.weights > 0).tolist()
        ids = [name for name, kept in zip(module.example_ids(batch), used, strict=True) if kept]
        line = {"stage": module.stage.name, "step": module.state.position.steps, "rank": trainer.global_rank}
        line |= {"world": trainer.world_size, "time": time.time(), "task": batch.task, "ids": ids}
        self.file.write(json.dumps(line) + "\n")

    def teardown(self, trainer: pl.Trainer, module: StageModule, stage: str) -> None:  # type: ignore[override]
        self.file.close()


def trace_callbacks() -> list[Callback]:
    """The trace, where the environment asks for it."""
    folder = os.environ.get(VARIABLE)
    return [Trace(folder)] if folder else []
