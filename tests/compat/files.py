"""Tables: files as other programs write them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from multitask.data.readers import read_examples
from multitask.tasks import TASKS
from tests.compat.table import Row


def _quoted_csv(folder: Path) -> None:
    with open(folder / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["sentence", "sentiment"], ['He said "no", twice.\nThen left.', 2]])
    (example,) = read_examples("a.csv", TASKS["sst"], labelled=True).examples
    assert (example.texts, example.label) == (('He said "no", twice.\nThen left.',), 2)


ROWS: Sequence[Row] = (Row("CSV with quoted fields, line feeds and quotes in them", "read", _quoted_csv),)
