"""A batch: named tensors, both sentences of a pair stacked so that one forward encodes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multitask.data.samplers import Rows, rank_slice
from multitask.data.tokens import TokenTable


@dataclass(eq=False)  # not frozen: Lightning converts its tensors to the stage's precision in place
class Batch:
    """B examples of one task, S = B * sentences: all first sentences, then all second ones.

    input_ids: (S, T) int64, padded with 0. mask: (S, T) bool, true at tokens.
    labels: (B,) float32. weights: (B,) float32, 0 leaves an example out. rows: (B,) int64, places in the table.
    features: (S, H) the encoder's sentence encodings where it is frozen and they were computed before; the
        token tensors are then empty.
    """

    task: str
    input_ids: Tensor
    mask: Tensor
    labels: Tensor
    weights: Tensor
    rows: Tensor
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed so."""
        changed: dict[str, Any] = {
            name: change(value) if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        return Batch(**changed)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.map(Tensor.pin_memory)


def stacked(rows: Rows, sentences: int) -> Rows:
    """The sentences of those examples in a batch's order: all first ones, then all second ones."""
    return (rows[None, :] * sentences + np.arange(sentences)[:, None]).reshape(-1)


def collate(
    task: str, table: TokenTable, rows: Rows, weights: NDArray[np.float32], features: Tensor | None = None
) -> Batch:
    """The batch of those examples, padded to its longest sentence; of `features` (all sentences', H) if given."""
    sentences = stacked(rows, table.sentences)
    if features is None:
        tokens = [table.sentence(int(index)) for index in sentences]
        lengths = torch.tensor([len(ids) for ids in tokens])
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        input_ids = torch.zeros(mask.shape, dtype=torch.int64)
        input_ids[mask] = torch.cat(tokens).long()
    else:
        input_ids, mask = torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0, dtype=torch.bool)
    return Batch(
        task=task,
        input_ids=input_ids,
        mask=mask,
        labels=table.labels[rows],
        weights=torch.from_numpy(weights),
        rows=torch.from_numpy(rows),
        features=None if features is None else features[sentences],
    )


class EpochSlices(Dataset[Batch]):
    """One rank's slices of an epoch's global batches, from `start` on."""

    def __init__(
        self,
        task: str,
        table: TokenTable,
        batches: list[Rows],
        *,
        rank: int,
        world: int,
        start: int = 0,
        features: Tensor | None = None,
    ) -> None:
        self.task, self.table, self.batches = task, table, batches[start:]
        self.rank, self.world, self.features = rank, world, features

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        rows, weights = rank_slice(self.batches[index], self.rank, self.world)
        return collate(self.task, self.table, rows, weights, self.features)
