"""A batch: named tensors, both sentences of a pair stacked so that one forward encodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multitask.data.samplers import Rows, rank_slice, stacked
from multitask.data.tokens import TokenTable


@dataclass(frozen=True, eq=False)
class Features:
    """Encodings (M, H) of sentences of a table; places: (N * sentences,) each sentence's row in them, -1 for none."""

    values: Tensor
    places: Tensor

    def of(self, sentences: Rows) -> Tensor:
        """(S, H) the encodings of some sentences; all of them have to be there."""
        return self.values[self.places[sentences]]


@dataclass(eq=False)  # not frozen: Lightning converts its tensors to the stage's precision in place
class Batch:
    """B examples of one task, S = B * sentences: all first sentences, then all second ones.

    input_ids: (S, T) int64, padded with 0. mask: (S, T) bool, true at tokens.
    labels: (B,) or (B, W) float32, as the table has them. weights: (B,) float32, 0 leaves an example out. rows: (B,)
    int64, places in the table.
    features: (S, F) what heads need of a frozen encoder (MultitaskModel.features), where it was computed before; the
        token tensors are then empty.
    targets: (S, T) int64, for mlm: the hidden tokens (multitask/data/masking.py). hidden: (M,) int64, their places
        among the batch's S * T; a device that had to look for them would keep the host waiting.
    keys: (S,) int64, for ranking: equal where sentences are. More sentences than the B examples' may then follow
        theirs: their hard negatives.
    numbers: (S,) int64, what each sentence is called in its table, by which dropout knows it.
    taught: for distillation, what a teacher says of the examples: (B,) or (B, W) outputs of its head, or (S, F)
        encodings.
    segments: (S, T) int64, of joined pairs: 0 in the first text's part, 1 in the second's; None where all are 0.
    """

    task: str
    input_ids: Tensor
    mask: Tensor
    labels: Tensor
    weights: Tensor
    rows: Tensor
    features: Tensor | None = None
    targets: Tensor | None = None
    hidden: Tensor | None = None
    keys: Tensor | None = None
    segments: Tensor | None = None
    taught: Tensor | None = None
    numbers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy of the batch whose tensors are what `change` makes of them."""
        changed: dict[str, Any] = {
            name: change(value) if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        return Batch(**changed)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.map(Tensor.pin_memory)


def padded(ids: Sequence[Sequence[int] | Tensor]) -> tuple[Tensor, Tensor]:
    """(S, T) int64 ids padded with 0 on the right, and the mask that is true at tokens."""
    lengths = torch.tensor([len(some) for some in ids])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    input_ids = torch.zeros(mask.shape, dtype=torch.int64)
    input_ids[mask] = torch.cat([torch.as_tensor(some) for some in ids]).long()
    return input_ids, mask


def segments_of(seconds: Sequence[int] | Tensor | Rows, mask: Tensor) -> Tensor:
    """(S, T) int64 for rows of that mask: 1 at tokens from where each row's second segment begins, (S,), else 0."""
    places = torch.arange(mask.shape[1])[None, :]
    return ((places >= torch.as_tensor(seconds)[:, None]) & mask).long()


def collate(
    task: str,
    table: TokenTable,
    rows: Rows,
    weights: NDArray[np.float32],
    features: Features | None = None,
    more: Rows | None = None,
) -> Batch:
    """The batch of some examples of a table, padded to its longest sentence. features: where given, encodings of all
    the table's sentences, which stand in for tokens.

    weights: (B,) 1, and 0 of what fills a slice up; examples that count for more or less have the product with theirs.
    more: further sentences of the table, appended to those of the examples.
    """
    sentences = stacked(rows, table.sentences)
    if more is not None:
        sentences = np.concatenate((sentences, more))
    if features is None:
        input_ids, mask = padded([table.sentence(int(index)) for index in sentences])
    else:
        input_ids, mask = torch.empty(0, 0, dtype=torch.int64), torch.empty(0, 0, dtype=torch.bool)
    seconds = None if features is not None or table.seconds is None else table.seconds[sentences]
    return Batch(
        task=task,
        input_ids=input_ids,
        mask=mask,
        labels=table.labels[rows],
        weights=torch.from_numpy(weights) if table.weights is None else torch.from_numpy(weights) * table.weights[rows],
        rows=torch.from_numpy(rows),
        features=None if features is None else features.of(sentences),
        segments=None if seconds is None else segments_of(seconds, mask),
        numbers=torch.from_numpy(sentences),
    )


def sum_of_hashes(batch: Batch) -> Tensor:
    """A number that says which examples a slice holds; over all slices of a global batch it sums up to the same one,
    exactly in float64, however they are cut. 2^64 / phi spreads neighbours."""
    mixed = (batch.rows + 1) * -7046029254386353131
    return (((mixed ^ (mixed >> 29)) & 0xFFFFFFFF) * (batch.weights > 0)).sum()


# (task, this rank's rows of a global batch, their weights, the batch's place in the epoch) -> the batch
MakeBatch = Callable[[str, Rows, NDArray[np.float32], int], Batch]


class EpochSlices(Dataset[Any]):  # of Batch, or of list[Batch]
    """One rank's slices of an epoch's global batches, each of one task, from step `start` on.

    together: how many batches of the plan a step takes; a step is a list of them where they are several.
    """

    def __init__(
        self, plan: Sequence[tuple[str, Rows]], make: MakeBatch, *, rank: int, world: int, start: int = 0,
        together: int = 1,
    ) -> None:  # fmt: skip
        self.plan, self.make, self.rank, self.world, self.start = plan, make, rank, world, start
        self.together = together

    def __len__(self) -> int:
        return len(self.plan) // self.together - self.start

    def __getitem__(self, index: int) -> Any:
        step = self.start + index
        parts = self.plan[step * self.together : (step + 1) * self.together]
        batches = [self.make(task, *rank_slice(rows, self.rank, self.world), step) for task, rows in parts]
        return batches if self.together > 1 else batches[0]
