"""A stage's end: the weights it keeps, its bundle, its predictions, and outcome.json, which says that it is done."""

from __future__ import annotations

import math

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.base import StageModule, sum_over_ranks
from lightning_modules.data import StageData
from lightning_modules.records import Record, chosen
from multitask.bundle import bundle_of, save_bundle
from multitask.checkpoints import CheckpointStore
from multitask.data.tokens import load_tokens
from multitask.evaluate import EvalSet, predictions
from multitask.experiment import StageJob, check_attempt
from multitask.predictions import write_predictions, write_submission_zip
from multitask.storage import Storage
from multitask.tasks import TASKS

OUTCOME = "outcome.json"


class Finishing(Callback):
    """Runs on every rank when training is done; rank 0 writes, outcome.json last."""

    def __init__(
        self,
        job: StageJob,
        data: StageData,
        store: CheckpointStore,
        records: list[Record],
        tokenizer_json: str,
    ) -> None:
        self.job, self.data, self.store, self.records = job, data, store, records
        self.tokenizer_json = tokenizer_json

    def on_fit_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        record = chosen(self.records, module.stage)
        assert record is not None, "a stage that has run to its end has been measured"
        self.store.flush()
        trainer.strategy.barrier("last checkpoint written")
        if record.steps != module.state.position.steps:
            module.model.load_state_dict(self.store.at(record.steps).weights)
        self._predict(trainer, module)
        if trainer.is_global_zero:
            check_attempt(self.job)
            about = {**self.job.about, "epoch": record.epoch, "steps": record.steps}
            save_bundle(self.job.folder, "bundle", bundle_of(module.model, self.tokenizer_json, about))
            self.job.folder.write_json(OUTCOME, self._outcome(module, record))

    def _predict(self, trainer: pl.Trainer, module: StageModule) -> None:
        """The CS224N prediction files, where the job asks for them; sets encoded before are not encoded again."""
        if not self.job.predict:
            return
        folder = self.job.folder
        for task, splits in self.job.predict.items():
            for split, path in splits.items():
                if split == "dev":
                    data = self.data.dev[task]
                else:
                    table = load_tokens(Storage(self.job.storage), path)
                    data = EvalSet.of(task, table, module.device.type, trainer.global_rank, trainer.world_size)
                predicted = predictions(
                    module.model,
                    data,
                    device=module.device,
                    autocast=trainer.precision_plugin.forward_context,
                    reduce=sum_over_ranks,
                )
                if trainer.is_global_zero:
                    write_predictions(folder, TASKS[task], split, data.table.ids, predicted.tolist())
        if trainer.is_global_zero:
            write_submission_zip(folder)

    def _outcome(self, module: StageModule, record: Record) -> dict[str, object]:
        state, measuring = module.state, math.fsum(record.seconds for record in self.records)
        start = next((record for record in self.records if record.steps == 0), None)
        return {
            "epochs": module.stage.epochs,
            "kept_epoch": record.epoch,
            "steps": state.position.steps,
            "seconds": round(state.seconds + measuring, 3),
            "training_seconds": round(state.seconds, 3),
            "examples_per_second": round(state.examples / state.seconds, 3) if state.seconds else None,
            "metrics": record.metrics,
            "why": record.why,
            "start": {"metrics": start.metrics, "why": start.why} if start else None,
        }
