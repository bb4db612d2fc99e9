"""The objective `ranking`: a sentence's similar one among all second sentences of the batch (mlm-mnrl.txt, 4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.base import StageModule
from multitask.data.batches import Batch, collate
from multitask.data.negatives import HardNegatives
from multitask.data.samplers import Rows, derive_seed, stacked
from multitask.losses import multiple_negatives
from multitask.tasks import TASKS


class Gather(torch.autograd.Function):
    """All ranks' tensors end to end, (P, ...) -> (ranks * P, ...); each rank gets the gradient of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class RankingModule(StageModule):
    """Similar pairs are the anchors; all second sentences of the global batch are the candidates."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wanted = self.stage.ranking.hard_negatives
        self.negatives = {
            task: HardNegatives.of(table, TASKS[task].label) for task, table in self.tables.items() if wanted
        }

    def make_batch(self, task: str, rows: Rows, weights: NDArray[np.float32], epoch: int) -> Batch:
        table, more = self.tables[task], np.empty(0, np.int64)
        if task in self.negatives:
            anchors = rows[(weights > 0) & self._similar(task, table.labels[rows]).numpy()]
            more = self.negatives[task].draw(anchors, derive_seed(self.seed, self.stage.name, epoch, task))
        batch = collate(task, table, rows, weights, more=more)
        batch.keys = table.keys[np.concatenate((stacked(rows, table.sentences), more))]
        return batch

    def _similar(self, task: str, labels: Tensor) -> Tensor:
        least = TASKS[task].label.similar
        assert least is not None, "recipe_checks.py lets no such task into a ranking stage"
        return labels >= least

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        sentences, size = self.model.dropout(self.model.encode(batch).sentence), len(batch)
        sentences = F.normalize(sentences.to(torch.promote_types(sentences.dtype, torch.float32)), dim=1)
        assert batch.keys is not None
        anchors = self._similar(batch.task, batch.labels) & (batch.weights > 0)
        first, second, more = slice(0, size), slice(size, 2 * size), slice(2 * size, None)
        total = self._direction(batch, sentences, anchors, first, second, more)
        if self.stage.ranking.symmetric:
            total = (total + self._direction(batch, sentences, anchors, second, first, more)) / 2
        return total * self.stage.loss_weights.get(batch.task, 1.0), anchors.sum()

    def _direction(
        self, batch: Batch, sentences: Tensor, anchors: Tensor, ours: slice, theirs: slice, more: slice
    ) -> Tensor:
        """The summed loss of this rank's anchors among the candidates of all ranks."""
        keys = batch.keys
        assert keys is not None
        width = self._width()
        candidates = torch.cat((_padded(sentences[theirs], width), _padded(sentences[more], self._room())))
        names = torch.cat((_padded(keys[theirs], width), _padded(keys[more], self._room())))
        real = torch.cat((_padded(batch.weights > 0, width), _padded(torch.ones_like(keys[more]) > 0, self._room())))
        offset = 0
        if self.trainer.world_size > 1:
            offset = self.trainer.global_rank * len(candidates)
            candidates, names, real = Gather.apply(candidates), Gather.apply(names), Gather.apply(real)
        own = offset + torch.arange(len(batch), device=keys.device)[anchors]
        # The same sentence again is no negative of an anchor or of its partner.
        mine, partners = keys[ours][anchors], keys[theirs][anchors]
        same = (names[None, :] == mine[:, None]) | (names[None, :] == partners[:, None])
        scores = self.stage.ranking.scale * (sentences[ours][anchors] @ candidates.T)
        return multiple_negatives(scores, own, real[None, :] & ~same)

    def _width(self) -> int:
        """The most examples that a rank's slice of a global batch has."""
        return -(-self.stage.batch_size // self.trainer.world_size)

    def _room(self) -> int:
        """The most hard negatives that a rank's slice has."""
        return self._width() if self.negatives else 0


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Zeros appended along the first dimension: gathering needs the same shape on every rank."""
    return torch.cat((tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])))
