"""The objective `contrastive`, SimCSE: a sentence's second encoding among those of a batch (Gao et al., 2021).

Unsupervised (section 3): a sentence is encoded twice, under two dropout masks. Supervised (section 4): a similar pair's
two sentences are the two encodings. Both learn from in-batch negatives over all ranks.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from multitask.data.batches import Batch, collate
from multitask.data.samplers import Rows, stacked
from multitask.data.tokens import TokenTable
from multitask.objectives.base import Objective, Place, Setup, similar_rows
from multitask.objectives.losses import multiple_negatives
from multitask.objectives.ranks import from_all_ranks, padded_rows
from multitask.tasks.schema import Above0, Strict
from multitask.tasks.table import TaskSpec


class ContrastiveOptions(Strict):
    """The objective `contrastive`, SimCSE (Gao et al., 2021)."""

    positives: Literal["dropout", "pairs"] = "dropout"
    """Where the second encoding comes from: `dropout` is the sentence itself under another mask, so that labels are not
    needed; `pairs` is the other sentence of a similar pair."""
    temperature: Above0 = 0.05
    """What the cosine is divided by."""


class Contrastive(Objective):
    """Every sentence, or every similar pair, is an example; the second encodings of the others are its negatives."""

    Options = ContrastiveOptions
    has_head = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.options: ContrastiveOptions = setup.options

    @classmethod
    def compares(cls, options: ContrastiveOptions) -> bool:
        return True

    @classmethod
    def wants_similar(cls, options: ContrastiveOptions) -> bool:
        return options.positives == "pairs"

    @classmethod
    def examples(cls, options: Any, spec: TaskSpec, table: TokenTable, rows: Rows) -> tuple[TokenTable, Rows]:
        if cls.wants_similar(options):
            return table, similar_rows(spec, table, rows)
        return table.singles(), np.sort(stacked(rows, table.sentences))

    def batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        table = self.setup.tables[task]
        batch = collate(task, table, rows, weights)
        batch.keys = table.keys[stacked(rows, table.sentences)]
        return batch

    def loss(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        one, two = self._encodings(batch)
        with torch.autocast(one.device.type, enabled=False):  # a scaled cosine needs more digits than a half has
            one, two = (F.normalize(it.to(torch.promote_types(it.dtype, torch.float32)), dim=1) for it in (one, two))
            used = batch.weights > 0
            facts = self._gathered(self._facts(batch), place)
            scores = one @ self._gathered(two, place).T / self.options.temperature
            start = place.rank * (len(facts) // place.world)
            own = torch.arange(start, start + len(used), device=used.device)
            total = multiple_negatives(scores, own, _negatives(facts, own), used)
        return total, used.sum()

    def _encodings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, H) each: of the pairs' first and second sentences, or of all sentences under two dropout masks."""
        found = self.model.dropped(self.model.encode(batch))
        if self.wants_similar(self.options):
            return found[: len(batch)], found[len(batch) :]
        return found, self.model.dropped(self.model.encode(batch))

    @staticmethod
    def _facts(batch: Batch) -> Tensor:
        """(B, 3) int64: the keys of an example's two sentences, equal without pairs, and whether the example counts."""
        assert batch.keys is not None
        sides = batch.keys[: len(batch)], batch.keys[-len(batch) :]
        return torch.stack((*sides, (batch.weights > 0).long()), dim=1)

    def _gathered(self, mine: Tensor, place: Place) -> Tensor:
        """(C, ...) of all ranks, each rank's padded to the most examples that a slice of a global batch has."""
        return from_all_ranks(padded_rows(mine, -(-self.setup.batch_size // place.world)), place)


def _negatives(facts: Tensor, own: Tensor) -> Tensor:
    """(B, C) bool: which candidates are an example's negatives; a sentence of its own pair, met again, is none.

    facts: (C, 3) as `Contrastive._facts` has them. own: (B,) the examples' places among the candidates.
    """
    first, second, counts = facts[:, 0], facts[:, 1], facts[:, 2] > 0
    mine, partner = first[own][:, None], second[own][:, None]
    return counts & (second != mine) & (second != partner)
