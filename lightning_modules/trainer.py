"""The one place where a Lightning Trainer is built."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from multitask.recipe import Stage
from multitask.records import Record


@dataclass(frozen=True)
class Execution:
    """How a stage runs: Lightning's own words for devices, and what Ray brings along for its workers.

    leaving: asked by all ranks after the same steps; whether one of their nodes is about to be taken away.
    measured: told by all ranks what was measured, after each measurement.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    strategy: Any = "auto"
    plugins: list[Any] = field(default_factory=list)
    leaving: Callable[[], bool] = lambda: False
    measured: Callable[[Record], None] = lambda record: None


def resolve_precision(precision: str, accelerator: str) -> str:
    """`auto`: bf16-mixed where the device has it natively, 16-mixed on older GPUs, 32-true elsewhere."""
    if precision != "auto":
        return precision
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "16-mixed"


def build_trainer(stage: Stage, execution: Execution, callbacks: list[Callback], epochs: int) -> pl.Trainer:
    """Lightning runs the loop; checkpoints, logging, validation and progress are the project's own callbacks."""
    return pl.Trainer(
        accelerator=execution.accelerator,
        devices=execution.devices,
        strategy=execution.strategy,
        plugins=execution.plugins or None,
        precision=resolve_precision(stage.precision, execution.accelerator),  # type: ignore[arg-type]
        max_epochs=epochs,
        gradient_clip_val=stage.clip,
        callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1,  # an epoch's batches are planned when it begins
        use_distributed_sampler=False,  # slices are ours
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def quiet_libraries() -> None:
    """Lightning's banners and hints are not about the user's stage."""
    for name in ("pytorch_lightning", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
