"""Executes a StageJob, in this process or as one rank of many; all that it leaves lies in the storage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.base import StageModule
from lightning_modules.callbacks import Checkpointing, Resume, Telling
from lightning_modules.completion import CompletionModule
from lightning_modules.data import StageData
from lightning_modules.dev import DevMetrics
from lightning_modules.finishing import Finishing
from lightning_modules.gradients import gradient_callbacks
from lightning_modules.mlm import MlmModule
from lightning_modules.profiling import Profile
from lightning_modules.progress import Interrupted, Report, Throttle
from lightning_modules.ranking import RankingModule
from lightning_modules.supervised import SupervisedModule
from lightning_modules.trace import trace_callbacks
from lightning_modules.trainer import Execution, build_trainer
from multitask.bundle.bundle import ENCODERS, Bundle, check_trainer, read_bundle
from multitask.experiment.checkpoints import CheckpointStore, State
from multitask.experiment.records import resumed_records
from multitask.experiment.stages import StageJob, read_outcome
from multitask.recipe.stages import Stage
from multitask.storage.storage import Storage
from multitask.tasks.own import known

OBJECTIVES: dict[str, type[StageModule]] = {
    "supervised": SupervisedModule,
    "mlm": MlmModule,
    "ranking": RankingModule,
    "completion": CompletionModule,
}


def run_stage(job: StageJob, execution: Execution, report: Report, every: float = 1.0) -> None:
    """Trains a stage to its end, from its newest sound checkpoint if there is one ("resume" always wins over
    "start from"), and leaves its bundle, metrics.jsonl and, last, outcome.json. Does nothing where that lies.

    every: seconds between two reports.

    Raises Interrupted where `report` asked to stop; the stage then goes on when it is run again. Raises UserError where
    this machine does not see the driver's storage.
    """
    job.owner.check_attempt()
    if read_outcome(job.folder) is not None:
        return
    job, stage = replace(job, owner=job.owner.claimable()), Stage.model_validate(job.stage)
    data = StageData(job, stage, OBJECTIVES[stage.objective])
    with CheckpointStore(job.folder.at("checkpoints")) as store:
        module, resume, covered = _load(job, stage, data, store)
        records = resumed_records(job.folder, module.state.position.steps, covered)
        throttle = Throttle(report, every)
        module.wants_stop = lambda: throttle.stop
        dev = DevMetrics(data, job, records, throttle, execution.measured)
        callbacks: list[Callback] = [
            *gradient_callbacks(stage.compress),
            resume,
            *trace_callbacks(),
            *([Profile(job.folder)] if stage.profile else []),
            dev,
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
    UserError where it is not sound, or another's."""
    start = job.model.start
    bundle, folder = read_bundle(Storage(job.owner.storage), start), start.rpartition("/")[0]
    if folder != ENCODERS:
        check_trainer(bundle.about, folder.rpartition("/")[2], start)
    return bundle


def _load(
    job: StageJob, stage: Stage, data: StageData, store: CheckpointStore
) -> tuple[StageModule, Resume, list[dict[str, Any]] | None]:
    """The stage's module, its weights from the newest checkpoint or else from the bundle it starts from, what resumes
    its optimizer, and what the checkpoint says was measured so far. Bundle and checkpoint themselves are dropped: each
    is as large as the model."""
    bundle, checkpoint = replace(job_start(job), specs=known(job.model.specs, "job")), store.newest()
    model = bundle.model(
        job.model.heads,
        dropout=stage.dropout,
        encoder_dropout=stage.encoder_dropout,
        seed=job.seed,
        mlm=stage.token_head(bundle.mlm),
    )
    if stage.precision == "64-true":
        model.double()  # before the checkpoint's weights come in, which are double too
    module = OBJECTIVES[stage.objective](model, stage, job, data.tables, data.rows, bundle.tokenizer_json)
    if checkpoint:
        model.load_trained(checkpoint.weights)
    module.start_at(checkpoint.state if checkpoint else State(), data.steps_per_epoch)
    return module, Resume(checkpoint, data), checkpoint.records if checkpoint else []
