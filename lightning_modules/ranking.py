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
from multitask.objectives.losses import multiple_negatives


class Gather(torch.autograd.Function):
    """All ranks' tensors end to end, (P, ...) -> (ranks * P, ...); each rank gets the gradient of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class RankingModule(StageModule):
    """Similar pairs are the anchors; all second sentences of the global batch, and hard negatives, the candidates."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        wanted = self.stage.ranking.hard_negatives
        self.negatives = {
            task: HardNegatives.of(table, self.rows[task], self.model.specs[task].label)
            for task, table in self.tables.items()
            if wanted
        }

    def make_batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        table, more = self.tables[task], np.empty(0, np.int64)
        if task in self.negatives:
            anchors = rows[(weights > 0) & self._similar(task, table.labels[rows]).numpy()]
            more = self.negatives[task].draw(anchors, derive_seed(self.seed, self.stage.name, when, task))
        batch = collate(task, table, rows, weights, more=more)
        batch.keys = table.keys[np.concatenate((stacked(rows, table.sentences), more))]
        return batch

    def _similar(self, task: str, labels: Tensor) -> Tensor:
        least = self.model.specs[task].label.similar
        assert least is not None, "recipe_checks.py lets no such task into a ranking stage"
        return labels >= least

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        sentences, size = self.model.dropout(self.model.encode(batch).sentence), len(batch)
        with torch.autocast(sentences.device.type, enabled=False):  # a scaled cosine needs more digits than a half has
            sentences = F.normalize(sentences.to(torch.promote_types(sentences.dtype, torch.float32)), dim=1)
            first, second, more = sentences[:size], sentences[size : 2 * size], sentences[2 * size :]
            anchors = self._similar(batch.task, batch.labels) & (batch.weights > 0)
            facts = self._facts(batch, anchors)
            total = self._direction(first, self._candidates(second, more), facts, anchors, ours=0, theirs=1)
            if self.stage.ranking.symmetric:
                back = self._direction(second, self._candidates(first, more), facts, anchors, ours=1, theirs=0)
                total = (total + back) / 2
        return total * self.stage.loss_weights.get(batch.task, 1.0), anchors.sum()

    def _facts(self, batch: Batch, anchors: Tensor) -> Tensor:
        """(C, 4) int64 of all ranks' candidates: the keys of their pair's sentences, whether they count, whether
        their pair is similar."""
        keys, size = batch.keys, len(batch)
        assert keys is not None
        pairs = torch.stack((keys[:size], keys[size : 2 * size], (batch.weights > 0).long(), anchors.long()), dim=1)
        more = keys[2 * size :]
        extras = torch.stack((more, more, torch.ones_like(more), torch.zeros_like(more)), dim=1)
        return self._candidates(pairs, extras)

    def _candidates(self, pairs: Tensor, extras: Tensor) -> Tensor:
        """Of all ranks, each rank's padded to one shape: the most pairs a slice of a global batch has, and as many
        hard negatives."""
        width = -(-self.stage.batch_size // self.trainer.world_size)
        mine = torch.cat((_padded(pairs, width), _padded(extras, width if self.negatives else 0)))
        gathered: Tensor = Gather.apply(mine) if self.trainer.world_size > 1 else mine
        return gathered

    def _direction(
        self, sentences: Tensor, candidates: Tensor, facts: Tensor, anchors: Tensor, ours: int, theirs: int
    ) -> Tensor:
        """The summed loss of this rank's anchors among the candidates of all ranks."""
        names, others, real, similar = facts[:, theirs], facts[:, ours], facts[:, 2] > 0, facts[:, 3] > 0
        start = self.trainer.global_rank * (len(facts) // self.trainer.world_size)
        own = start + torch.nonzero(anchors).squeeze(1)
        mine, partner = others[own][:, None], names[own][:, None]
        # The same sentence again is no negative, and neither is what the data calls similar to it.
        false = (names == mine) | (names == partner) | (similar & ((others == mine) | (others == partner)))
        scores = self.stage.ranking.scale * (sentences[anchors] @ candidates.T)
        return multiple_negatives(scores, own, real & ~false)


def _padded(tensor: Tensor, length: int) -> Tensor:
    """Zeros appended along the first dimension: gathering needs the same shape on every rank."""
    return torch.cat((tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])))
