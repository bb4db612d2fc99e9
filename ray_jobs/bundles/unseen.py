"""`minibert evaluate --clean`: the rows of a split that no training file has a text of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from multitask.bundle.ensemble import Answering
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.recipe.clean import TrainingTexts
from multitask.recipe.data_maps import Place
from multitask.tasks.table import Split, TaskSpec


def training_texts(bundles: Sequence[tuple[Answering, Place]]) -> TrainingTexts:
    """The texts of the training files of all tasks of some bundles, each with the place of its files. Raises UserError
    where a bundle has none."""
    found = TrainingTexts()
    for bundle, place in bundles:
        specs = [bundle.specs[task] for task in bundle.tasks]
        if not any(place.has(spec, "train") for spec in specs):
            tasks = ", ".join(bundle.tasks)
            raise UserError(f"--clean: {place.uri} has no training file of {tasks}; --data names where they lie")
        found.add(place, specs, bundle.about.get("columns", {}))
    return found


def unseen_rows(
    seen: TrainingTexts, bundle: Answering, place: Place, spec: TaskSpec, split: Split, table: TokenTable
) -> NDArray[np.bool_]:
    """(N,) whether no text of a table's row is among those. Raises UserError where the file has changed since the table
    was made."""
    sha256, rows = seen.unseen(place, spec, split, bundle.about.get("columns", {}))
    if sha256 != table.sha256:
        raise UserError(f"{table.source}: changed while it was read; run again when nothing writes to it")
    return rows
