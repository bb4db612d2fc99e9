"""`log: {conflict: 50}`: how far the tasks of a stage agree on where the encoder should go, every so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lightning_modules.conflict.encoder import EncoderWeights, average_over_ranks, row_of
from lightning_modules.data import StageData
from lightning_modules.module import StageModule
from multitask.data.batches import Batch
from multitask.data.samplers import derive_seed, rank_slice, subset
from multitask.experiment.events import CONFLICT

WHOLE = "encoder"  # all parts together


class Conflict(Callback):
    """Tells the cosine between each two tasks' gradients in every part of the encoder, and in all of it.

    Gradients are of the whole loss of a batch a task, over all ranks, at the weights as they stand, under the stage's
    own dropout and precision. The batches are drawn from seed, stage and step, beside those that are trained on:
    training does not notice.
    """

    def __init__(self, data: StageData, every: int) -> None:
        self.data, self.every = data, every

    def on_train_start(self, trainer: pl.Trainer, module: StageModule) -> None:  # type: ignore[override]
        EncoderWeights(module.model, module.stage.name)  # where there are none it is said before the first step

    def on_train_batch_end(self, trainer: pl.Trainer, module: StageModule, *_: Any) -> None:  # type: ignore[override]
        if module.state.position.steps % self.every:
            return
        encoder = EncoderWeights(module.model, module.stage.name)
        with torch.enable_grad():
            rows = torch.stack([self._gradient(trainer, module, task, encoder) for task in module.stage.tasks])
        average_over_ranks(rows, rows.new_zeros(0), encoder.words, trainer.world_size, None)
        module.told |= cosines(module.stage.tasks, encoder.products(rows))

    def _gradient(self, trainer: pl.Trainer, module: StageModule, task: str, encoder: EncoderWeights) -> Tensor:
        """(P,) this rank's part of the gradient of a task's loss, but for a factor."""
        draw = partial(module.draw, CONFLICT, task)
        draw()
        with trainer.precision_plugin.forward_context():
            batch = trainer.strategy.batch_to_device(self._batch(trainer, module, task))
            total, _ = module.objective.loss(batch, replace(module.place, reseed=draw))
        scaler = getattr(trainer.precision_plugin, "scaler", None)  # halves would lose the small gradients
        total = total * scaler.get_scale() if scaler else total
        return row_of(torch.autograd.grad(total, encoder.weights, allow_unused=True), encoder.weights)

    def _batch(self, trainer: pl.Trainer, module: StageModule, task: str) -> Batch:
        rows, steps = self.data.rows[task], module.state.position.steps
        seed = derive_seed(module.seed, module.stage.name, CONFLICT, steps, task)
        drawn = rows[subset(len(rows), module.stage.batch_size, seed)]
        mine = rank_slice(drawn, trainer.global_rank, trainer.world_size)
        batch: Batch = trainer.precision_plugin.convert_input(
            module.objective.batch(task, *mine, f"{CONFLICT}, step {steps}")
        )
        return batch


def cosines(tasks: list[str], products: Mapping[str, Tensor]) -> dict[str, float]:
    """TensorBoard's tag `conflict/<task>-<task>/<part>` -> the cosine between their gradients; none where one is 0.

    products: a part's name -> the (K, K) inner products of the tasks' gradients in it.
    """
    whole = {**products, WHOLE: torch.stack(list(products.values())).sum(dim=0)}
    found = {}
    for (i, one), (j, other) in combinations(enumerate(tasks), 2):
        for part, product in whole.items():
            cosine = float(product[i, j] / (product[i, i] * product[j, j]).sqrt())
            if cosine == cosine:
                found[f"{CONFLICT}/{one}-{other}/{part}"] = cosine
    return found
