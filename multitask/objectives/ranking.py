"""The objective `ranking`: a sentence's similar one among all second sentences of the batch (mlm-mnrl.txt, 4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multitask.data.batches import Batch, collate
from multitask.data.negatives import HardNegatives
from multitask.data.samplers import Rows, derive_seed, stacked
from multitask.objectives.base import Objective, Place, Setup
from multitask.objectives.losses import multiple_negatives
from multitask.objectives.ranks import from_all_ranks, padded_rows
from multitask.tasks.schema import Above0, Strict


class Ranking(Strict):
    """The objective `ranking`, multiple negatives (mlm-mnrl.txt, 4.3)."""

    scale: Above0 = 20.0
    """The factor of the cosine; the paper's formula has 1."""
    symmetric: bool = False
    """Rank first sentences for second ones too."""
    hard_negatives: bool = False
    """Add, for each similar pair, a sentence that the data calls dissimilar to one of its two."""


class MultipleNegatives(Objective):
    """Learns to find a sentence's similar one: similar pairs are the anchors; all second sentences of the global batch,
    and hard negatives, the candidates."""

    Options = Ranking
    has_head = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options: Ranking = setup.options
        self.negatives = {
            task: HardNegatives.of(table, setup.rows[task], self.model.specs[task].label)
            for task, table in setup.tables.items()
            if self.options.hard_negatives
        }

    @classmethod
    def compares(cls, options: Any) -> bool:
        return not options.hard_negatives

    @classmethod
    def wants_similar(cls, options: Any) -> bool:
        return True

    def batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        table, more = self.setup.tables[task], np.empty(0, np.int64)
        if task in self.negatives:
            anchors = rows[(weights > 0) & self._similar(task, table.labels[rows]).numpy()]
            more = self.negatives[task].draw(anchors, derive_seed(self.setup.seed, self.setup.stage, when, task))
        batch = collate(task, table, rows, weights, more=more)
        batch.keys = table.keys[np.concatenate((stacked(rows, table.sentences), more))]
        return batch

    def _similar(self, task: str, labels: Tensor) -> Tensor:
        least = self.model.specs[task].label.similar
        assert least is not None, "recipe/checks.py lets no such task into a ranking stage"
        return labels >= least

    def loss(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        sentences, size = self.model.dropped(self.model.encode(batch)), len(batch)
        with torch.autocast(sentences.device.type, enabled=False):  # a scaled cosine needs more digits than a half has
            sentences = F.normalize(sentences.to(torch.promote_types(sentences.dtype, torch.float32)), dim=1)
            first, second, more = sentences[:size], sentences[size : 2 * size], sentences[2 * size :]
            anchors = self._similar(batch.task, batch.labels) & (batch.weights > 0)
            facts = self._facts(batch, anchors, place)
            candidates = self._candidates(second, more, place)
            total = self._direction(first, candidates, facts, anchors, place, ours=0, theirs=1)
            if self.options.symmetric:
                candidates = self._candidates(first, more, place)
                back = self._direction(second, candidates, facts, anchors, place, ours=1, theirs=0)
                total = (total + back) / 2
        return total, anchors.sum()

    def _facts(self, batch: Batch, anchors: Tensor, place: Place) -> Tensor:
        """(C, 4) int64 of all ranks' candidates: the keys of their pair's sentences, whether they count, whether
        their pair is similar."""
        keys, size = batch.keys, len(batch)
        assert keys is not None
        pairs = torch.stack((keys[:size], keys[size : 2 * size], (batch.weights > 0).long(), anchors.long()), dim=1)
        more = keys[2 * size :]
        extras = torch.stack((more, more, torch.ones_like(more), torch.zeros_like(more)), dim=1)
        return self._candidates(pairs, extras, place)

    def _candidates(self, pairs: Tensor, extras: Tensor, place: Place) -> Tensor:
        """All ranks' candidates, each rank's padded to one shape: the most pairs a slice of a global batch has, and
        as many hard negatives."""
        width = -(-self.setup.batch_size // place.world)
        mine = torch.cat((padded_rows(pairs, width), padded_rows(extras, width if self.negatives else 0)))
        return from_all_ranks(mine, place)

    def _direction(
        self,
        sentences: Tensor,
        candidates: Tensor,
        facts: Tensor,
        anchors: Tensor,
        place: Place,
        ours: int,
        theirs: int,
    ) -> Tensor:
        """The summed loss of this rank's anchors among the candidates of all ranks."""
        names, others, real, similar = facts[:, theirs], facts[:, ours], facts[:, 2] > 0, facts[:, 3] > 0
        start = place.rank * (len(facts) // place.world)
        own = torch.arange(start, start + len(anchors), device=anchors.device)
        mine, partner = others[own][:, None], names[own][:, None]
        # The same sentence again is no negative, and neither is what the data calls similar to it.
        false = (names == mine) | (names == partner) | (similar & ((others == mine) | (others == partner)))
        scores = self.options.scale * (sentences @ candidates.T)
        return multiple_negatives(scores, own, real & ~false, anchors)
