"""A stage's end: the weights it keeps, its bundle, its predictions, and outcome.json, which says that it is done."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lightning_modules.dev import DevMetrics, counter
from lightning_modules.module import StageModule
from lightning_modules.progress import Throttle
from multitask.bundle.bundle import Bundle, answered, bundle_of, save_bundle, weights_of
from multitask.data.tokens import load_tokens
from multitask.experiment.checkpoints import CheckpointStore
from multitask.experiment.records import Record, chosen, out_of_patience, written
from multitask.experiment.stage_job import BUNDLE, StageJob, write_outcome
from multitask.inference.submission import is_submitted, write_predictions, write_submission_zip
from multitask.measure.evaluate import EvalSet, predictions
from multitask.measure.looks import look_at, texts_of_row
from multitask.measure.metrics import Predicted
from multitask.objectives.ranks import sum_over_ranks
from multitask.storage.sealed import Damaged
from multitask.storage.storage import Storage

log = logging.getLogger(__name__)


class Finishing(Callback):
    """Runs on every rank when training is done; rank 0 writes, outcome.json last."""

    def __init__(self, job: StageJob, dev: DevMetrics, store: CheckpointStore, throttle: Throttle) -> None:
        self.job, self.dev, self.store, self.throttle = job, dev, store, throttle
        self.records = dev.records
        self._on_dev: dict[str, Predicted] = {}  # what the kept weights give, by task

    def on_fit_end(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        module.to(trainer.strategy.root_device)  # Lightning has taken it off its device by now
        self.store.flush()
        trainer.strategy.barrier("last checkpoint written")
        record = self._keep(module)
        self._predict_dev(trainer, module, record)
        self._predict(trainer, module)
        if trainer.is_global_zero:
            about = {**self.job.about, "epoch": record.epoch, "steps": record.steps}
            bundle = bundle_of(module.model, module.objective.setup.tokenizer_json, about)
            save_bundle(self.job.folder, BUNDLE, bundle)
            write_outcome(
                self.job.folder, {**self._outcome(module, record), "dev": self._looks(bundle, module.stage.log.worst)}
            )

    def _keep(self, module: StageModule) -> Record:
        """Puts the weights that the stage keeps into the module; returns what was measured of them."""
        last, best = self.records[-1], chosen(self.records, module.stage)
        assert best is not None, "a stage that has run to its end has been measured"
        if best.steps == last.steps:
            return last
        try:
            module.settle_on(self.store.at(best.steps))
        except Damaged as error:
            log.warning("the best epoch's checkpoint is lost, the last epoch's weights are kept: %s", error)
            return last
        return best

    def _predict_dev(self, trainer: pl.Trainer, module: StageModule, kept: Record) -> None:
        """Has the kept weights' predictions of the dev sets that are written or looked at: those at hand where they are
        what was measured last, and else made again, as after a kill behind the last measurement."""
        at_hand = self.dev.predicted if kept is self.records[-1] else {}
        looked_at = answered(module.model.head_names, self.job.about)
        for task, data in self.dev.data.dev.items():
            if task in looked_at or "dev" in self.job.data.predict.get(task, ()):
                self._on_dev[task] = at_hand.get(task) or self._predicted(trainer, module, f"{task} dev", data)

    def _predict(self, trainer: pl.Trainer, module: StageModule) -> None:
        """Writes prediction files where the job asks for them, and the zip of CS224N's tasks."""
        if not self.job.data.predict:
            return
        folder, written = self.job.folder, []
        for task, splits in self.job.data.predict.items():
            for split, path in splits.items():
                table = load_tokens(Storage(self.job.owner.storage), path)
                if split == "dev":
                    found = self._on_dev[task]
                else:
                    data = EvalSet.of(task, table, module.device.type, trainer.global_rank, trainer.world_size)
                    found = self._predicted(trainer, module, f"{task} {split}", data)
                if trainer.is_global_zero:
                    spec = module.model.specs[task]
                    written.append(write_predictions(folder, spec, split, table.ids, found.labels.tolist()))
        if trainer.is_global_zero and is_submitted(self.job.data.predict):
            write_submission_zip(folder, written)

    def _predicted(self, trainer: pl.Trainer, module: StageModule, doing: str, data: EvalSet) -> Predicted:
        return predictions(
            module.model,
            data,
            device=module.device,
            autocast=trainer.precision_plugin.forward_context,
            reduce=sum_over_ranks,
            progress=counter(self.throttle, module, f"predict {doing}", data, module.stage.epochs),
        )

    def _looks(self, bundle: Bundle, most: int) -> dict[str, Any]:
        """Task that the bundle answers -> a closer look at its dev set, with the texts of the worst rows. most: rows a
        task."""
        found = {}
        for task in bundle.answers:
            table = self.dev.data.dev_tables[task]
            if look := look_at(self._on_dev[task], table, bundle.specs[task].label, most):
                worst = [{**vars(one), "texts": texts_of_row(table, one.row, bundle.tokenizer)} for one in look.worst]
                found[task] = {**look.to_json(), "worst": worst}
        return found

    def _outcome(self, module: StageModule, record: Record) -> dict[str, object]:
        state, measuring = module.state, math.fsum(record.seconds for record in self.records)
        start = next((record for record in self.records if record.steps == 0), None)
        early = out_of_patience(self.records, module.stage)
        return {  # weights: sha256 of those that it ends with, and of those that it started from
            "epochs": self.records[-1].epoch if early else module.stage.epochs,
            **({"stopped_early": True} if early else {}),
            "kept_epoch": record.epoch,
            "steps": state.position.steps,
            "examples_seen": state.seen,
            "seconds": round(state.seconds + measuring, 3),
            "training_seconds": round(state.seconds, 3),
            "examples_per_second": round(state.examples / state.seconds, 3) if state.seconds else None,
            **written(record.scores),
            "start": written(start.scores) if start else None,
            "records": [record.to_json() for record in self.records],
            "weights": weights_of(self.job.folder.at(BUNDLE)),
            "start_weights": state.start,
        }
