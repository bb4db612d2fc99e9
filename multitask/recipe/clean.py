"""Which rows of a split say nothing that a training file says too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from multitask.data.plain import plain
from multitask.data.shards import ReadResult, read_examples
from multitask.recipe.data_maps import Place
from multitask.tasks.table import Split, TaskSpec

ColumnsOf = Mapping[str, Mapping[str, str | int]]  # task -> its column -> its files'


@dataclass
class TrainingTexts:
    """The texts of training files, in the form that `plain` gives.

    files: which were read, and by which of their columns.
    """

    texts: set[str] = field(default_factory=set)
    files: dict[tuple[str, ...], None] = field(default_factory=dict)

    def add(self, place: Place, specs: Iterable[TaskSpec], columns: ColumnsOf) -> None:
        """Reads the training file of each task that has one there. columns: where the place does not say them."""
        for spec in specs:
            if place.has(spec, "train"):
                uris, named = place.find(spec, "train"), _columns(place, spec, columns)
                key = (*uris, *(str(named.get(column, column)) for column in spec.columns))
                if key not in self.files:
                    self.files[key] = None
                    found = _read(uris, spec, named)
                    self.texts.update(plain(text) for example in found.examples for text in example.texts)

    def unseen(self, place: Place, spec: TaskSpec, split: Split, columns: ColumnsOf) -> tuple[str, NDArray[np.bool_]]:
        """The sha256 of a task's file, and (N,) whether none of a usable row's texts is in a training file."""
        found = _read(place.find(spec, split), spec, _columns(place, spec, columns))
        clean = [self.texts.isdisjoint(map(plain, example.texts)) for example in found.examples]
        return found.sha256, np.array(clean, dtype=bool)


def _columns(place: Place, spec: TaskSpec, columns: ColumnsOf) -> Mapping[str, str | int]:
    return place.columns(spec.name, columns.get(spec.name, {}))


def _read(uris: Sequence[str], spec: TaskSpec, columns: Mapping[str, str | int]) -> ReadResult:
    return read_examples(uris, spec, labelled=True, columns=columns, max_bad_rows=1.0)
