"""Executes a StageJob, in this process or as one rank of many; all that it leaves lies in the storage."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import HalfPrecision
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.callbacks import Checkpointing, Resume, Telling
from lightning_modules.conflict.instrument import Conflict
from lightning_modules.conflict.surgery import SurgeryModule
from lightning_modules.data import StageData
from lightning_modules.dev import DevMetrics
from lightning_modules.finishing import Finishing
from lightning_modules.gradients import gradient_callbacks
from lightning_modules.module import StageModule
from lightning_modules.profiling import Profile
from lightning_modules.progress import Interrupted, Report, Throttle
from lightning_modules.teaching import Teaching
from lightning_modules.trace import trace_callbacks
from multitask.bundle.bundle import ENCODERS, Bundle, check_trainer, longest, read_bundle, weights_of
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore
from multitask.experiment.records import Record, resumed_records
from multitask.experiment.stage_job import StageJob, read_outcome
from multitask.model.multitask import MultitaskModel
from multitask.objectives.base import Setup
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from multitask.tasks.faults import own_faults
from multitask.tasks.imported import trust
from multitask.tasks.own import known

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """How a stage runs: Lightning's own words for devices, and what Ray brings along for its workers."""

    accelerator: str = "auto"
    devices: int | str = 1
    strategy: Any = "auto"
    plugins: list[Any] = field(default_factory=list)
    leaving: Callable[[], bool] = lambda: False
    """Whether a node of the run is about to be taken away; all ranks ask it after the same steps."""
    measured: Callable[[Record], None] = lambda record: None
    """Told by all ranks what was measured, after each measurement."""


@own_faults()
def run_stage(job: StageJob, execution: Execution, report: Report, every: float = 1.0) -> None:
    """Trains a stage to its end, from its newest sound checkpoint if there is one ("resume" always wins over
    "start from"), and leaves its bundle, metrics.jsonl and, last, outcome.json. Does nothing where that lies.

    every: seconds between two reports.

    Raises Interrupted where `report` asked to stop; the stage then goes on when it is run again. Raises UserError where
    this machine does not see the driver's storage, or code that the recipe names fails.
    """
    job.owner.check_attempt()
    if read_outcome(job.folder) is not None:
        return
    trust(job.model.own)  # before the bundle is read that it starts from, whose heads may be of it
    job, stage = replace(job, owner=job.owner.claimable()), Stage.model_validate(job.stage)
    data = StageData(job, stage)
    with CheckpointStore(job.folder.at("checkpoints")) as store:
        module, covered = _load(job, stage, data, store)
        records = resumed_records(job.folder, module.state.position.steps, covered)
        throttle = Throttle(report, every)
        module.wants_stop = lambda: throttle.stop
        dev = DevMetrics(data, job, records, throttle, execution.measured)
        callbacks: list[Callback] = [
            *(gradient_callbacks(stage.compress) if stage.surgery == "none" else []),
            Resume(data),
            *trace_callbacks(),
            *([Profile(job.folder)] if stage.profile else []),
            *([Conflict(data, stage.log.conflict)] if stage.log.conflict else []),
            *([Teaching(data, throttle)] if stage.teachers else []),
            dev,
            *module.own.callbacks,
            module.own,  # before a checkpoint is made, so that it has their state of the same step
            Telling(throttle, dev, store),
            Checkpointing(store, records, execution.leaving),
            Finishing(job, dev, store, throttle),
        ]
        epochs_left = stage.epochs - module.state.position.epoch
        try:
            build_trainer(stage, execution, callbacks, epochs_left).fit(module, datamodule=data)
        except SIGTERMException as error:
            raise Interrupted(stage.name) from error


def job_start(job: StageJob) -> Bundle:
    """The bundle that a stage starts from: an encoder's or a foreign one's in the cache, or another trainer's. Raises
    UserError where it is not sound, or is not that trainer's."""
    start = job.model.start
    bundle, folder = read_bundle(Storage(job.owner.storage), start), start.rpartition("/")[0]
    if folder != ENCODERS:
        check_trainer(bundle.about, folder.rpartition("/")[2], start)
    return bundle


def _load(
    job: StageJob, stage: Stage, data: StageData, store: CheckpointStore
) -> tuple[StageModule, list[dict[str, Any]] | None]:
    """The stage's module, from the newest checkpoint or else from the bundle that it starts from, and what the
    checkpoint says was measured so far. Bundle and checkpoint themselves are dropped: each is as large as the model."""
    bundle = replace(job_start(job), specs=known(job.model.specs, "job"))
    start = weights_of(Storage(job.owner.storage).at(job.model.start))
    checkpoint = _of_this_start(store.newest(), start, job)
    model = bundle.model(
        job.model.heads,
        dropout=stage.dropout,
        encoder_dropout=stage.encoder_dropout,
        seed=job.seed,
        mlm=stage.token_head(bundle.mlm),
        copy_top=stage.branches,
    )
    model.micro_batch = None if stage.micro_batch == "auto" else stage.micro_batch
    model.encoder.encoder.recompute = stage.recompute
    if stage.precision == "64-true":
        model.double()  # before the checkpoint's weights come in, which are double too
    kind = StageModule if stage.surgery == "none" else SurgeryModule
    module = kind(stage.learns(setup_of(job, stage, data, model, bundle.tokenizer_json)), stage, job)
    module.start(checkpoint, start, data.steps_per_epoch)
    return module, checkpoint.records if checkpoint else []


def _of_this_start(checkpoint: Checkpoint | None, start: str, job: StageJob) -> Checkpoint | None:
    """The checkpoint; None, with a warning, where the stage had begun from another bundle than lies there now: it
    begins anew."""
    if checkpoint is None or checkpoint.state.start in ("", start):
        return checkpoint
    log.warning(
        "%s: its checkpoints come from another %s than lies there now; trained again",
        job.owner.trainer,
        job.model.start,
    )
    return None


def setup_of(job: StageJob, stage: Stage, data: StageData, model: MultitaskModel, tokenizer_json: str) -> Setup:
    """What the stage gives its objective."""
    return Setup(
        model,
        stage.name,
        job.seed,
        stage.tasks,
        stage.options,
        stage.batch_size,
        data.tables,
        data.rows,
        losses=job.model.losses,
        loss_settings=job.model.loss_settings,
        teachers=stage.teachers,
        smart=stage.smart,
        rdrop=stage.rdrop,
        tokenizer_json=tokenizer_json,
        max_length=longest(job.about, model.config),
    )


def resolve_precision(precision: str, accelerator: str) -> str:
    """Lightning's precision for a stage's: `auto` is bf16-mixed where the device has it natively, 16-mixed on older
    GPUs, 32-true elsewhere. A CPU has no 16-mixed: bf16-mixed is taken there, with a warning."""
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
    """Keeps weights and moments in 16 bits. The batches stay as they are: Lightning would round labels, and counts
    above 256, to 8 bits of precision."""

    def convert_input(self, data: Any) -> Any:
        return data


def build_trainer(stage: Stage, execution: Execution, callbacks: list[Callback], epochs: int) -> pl.Trainer:
    """The Trainer of a stage. Lightning runs the loop; checkpoints, logging, validation and progress are the project's
    own callbacks."""
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
    """Silences Lightning's banners and hints, which are not about the user's stage."""
    for name in ("pytorch_lightning", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
