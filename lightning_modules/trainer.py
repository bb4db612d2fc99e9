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
from pytorch_lightning.plugins.precision import HalfPrecision

from multitask.experiment.records import Record
from multitask.recipe.stages import Stage

log = logging.getLogger(__name__)


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
    """`auto`: bf16-mixed where the device has it natively, 16-mixed on older GPUs, 32-true elsewhere. A CPU has no
    16-mixed: Lightning takes bf16-mixed there, which is said."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if precision == "16-mixed" and not on_gpu:
        log.warning("precision: 16-mixed: not on a CPU; bf16-mixed is taken")
        return "bf16-mixed"
    if precision != "auto":
        return precision
    if not on_gpu:
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability()[0] >= 8 else "16-mixed"


class HalfWeights(HalfPrecision):
    """Weights and moments in 16 bits. The batches stay as they are: Lightning would round labels, and counts above 256,
    to 8 bits of precision."""

    def convert_input(self, data: Any) -> Any:
        return data


def build_trainer(stage: Stage, execution: Execution, callbacks: list[Callback], epochs: int) -> pl.Trainer:
    """Lightning runs the loop; checkpoints, logging, validation and progress are the project's own callbacks."""
    precision = resolve_precision(stage.precision, execution.accelerator)
    half = [HalfWeights("bf16-true")] if precision == "bf16-true" else []
    return pl.Trainer(
        accelerator=execution.accelerator,
        devices=execution.devices,
        strategy=execution.strategy,
        plugins=[*execution.plugins, *half] or None,
        precision=None if half else precision,  # type: ignore[arg-type]
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
