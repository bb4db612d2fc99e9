"""`profile: true` (--profile): what some steps of a stage cost, by torch.profiler, in the trainer's folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from multitask.storage.owners import kept_in
from multitask.storage.storage import Storage

# The first steps choose kernels and grow buffers; they are no measure of the others.
SKIPPED, WARMUP, RECORDED = 5, 2, 10
ROWS = 25  # of the summary
FOLDER, SUMMARY = "profile", "summary.txt"


class Profile(Callback):
    """Profiles some steps on rank 0, once a process: a trace for TensorBoard's profiler plugin, chrome://tracing or
    Perfetto, and the dearest operations as text. A stage that is shorter than what is skipped and recorded leaves
    what there was."""

    def __init__(self, folder: Storage) -> None:
        self.folder = folder
        self._profiler: profile | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._profiler = profile(
                activities=[ProfilerActivity.CPU, *gpu],
                schedule=schedule(skip_first=SKIPPED, wait=0, warmup=WARMUP, active=RECORDED, repeat=1),
                on_trace_ready=self._keep,
                record_shapes=True,
                profile_memory=True,
            )
            self._profiler.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if self._profiler:
            self._profiler.step()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self._profiler:
            self._profiler.stop()
            self._profiler = None

    def _keep(self, profiler: profile) -> None:
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        with tempfile.TemporaryDirectory(prefix=kept_in("profile")) as local:
            tensorboard_trace_handler(local, worker_name="rank0", use_gzip=True)(profiler)
            Path(local, SUMMARY).write_text(profiler.key_averages().table(sort_by=by, row_limit=ROWS))
            for file in Path(local).iterdir():
                self.folder.write_bytes(f"{FOLDER}/{file.name}", file.read_bytes())
