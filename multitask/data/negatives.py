"""Hard negatives for ranking: sentences that the data itself calls dissimilar to one of a pair's two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multitask.data.samplers import Rows, derive_seed
from multitask.data.tokens import TokenTable
from multitask.tasks.labels import LabelSpec


@dataclass(frozen=True)
class HardNegatives:
    """The hard negatives that a table has. keys: (N * 2,) one a sentence of the table, equal for equal sentences.
    partners: a sentence's key -> its partners in dissimilar pairs."""

    keys: Rows
    partners: dict[int, list[int]]

    @classmethod
    def of(cls, table: TokenTable, rows: Rows, label: LabelSpec) -> HardNegatives:
        """The hard negatives among `rows` of a table: the pairs of the label's lowest value, Quora's 0 say, both
        ways."""
        keys: Rows = table.keys.numpy()
        partners: dict[int, list[int]] = {}
        for row in rows[table.labels.numpy()[rows] == label.low].tolist():
            first, second = 2 * row, 2 * row + 1
            partners.setdefault(int(keys[first]), []).append(second)
            partners.setdefault(int(keys[second]), []).append(first)
        return cls(keys, partners)

    def draw(self, rows: Rows, seed: int) -> Rows:
        """One hard negative, the index of a sentence, for each of the pairs that has any; by (seed, row) alone."""
        found = []
        for row in rows.tolist():
            choice = [at for side in (2 * row, 2 * row + 1) for at in self.partners.get(int(self.keys[side]), [])]
            if choice:
                found.append(choice[derive_seed(seed, row) % len(choice)])
        return np.array(found, np.int64)
