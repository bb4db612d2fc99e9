"""What the readers make of a data directory: the numbers behind `minibert data check`."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multitask.data.files import list_directory
from multitask.data.readers import Example
from multitask.data.scales import scale_note
from multitask.data.shards import ReadResult, read_examples
from multitask.data.tabular import BadRow
from multitask.errors import UserError, short_list
from multitask.recipe.data_maps import Place, is_map, mapped, place_of, place_of_recipe
from multitask.recipe.packaged import packaged
from multitask.tasks.labels import KINDS
from multitask.tasks.table import Split, TaskSpec

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
MAX_BAD_ROWS = 0.01  # a recipe's own, unless it says otherwise
_SHOWN_ROWS = 20


@dataclass(frozen=True)
class FileReport:
    """What the readers make of one task's file."""

    task: str
    split: Split
    path: str
    rows: int = 0
    """How many rows are usable."""
    labels: tuple[tuple[int, int], ...] = ()
    """(label, rows) pairs, scores rounded to the nearest integer."""
    words: tuple[int, int, int, int] = (0, 0, 0, 0)
    """The least, median, 95th percentile and most words of a text."""
    quarantined: tuple[BadRow, ...] = ()
    problem: str = ""
    """Why nothing could be read, or ""."""
    names: tuple[str, ...] = ()
    """What the task calls its labels, where they have names; else what the file calls its classes."""
    form: str = ""
    """How the file is read, for people."""
    note: str = ""
    """What is odd about the file, or ""."""
    spread: bool = True
    """Whether the labels differ, rounded or not."""
    similar: bool = False
    """Whether all rows are pairs that mean the same, which ranking and completion learn from."""

    @property
    def fault(self) -> str:
        """Why nothing could be trained on it, or measured; "" where it could."""
        if self.problem:
            return self.problem
        if not self.rows:
            return f"{self.path}: no usable row; {len(self.quarantined)} are quarantined"
        if self.split == "train" and not self.spread and not self.similar:
            said = " and ".join(self.label_name(label) for label, _ in self.labels)
            return f"{self.path}: every label is {said or 'empty'}: nothing to tell apart"
        return ""

    def label_name(self, label: int) -> str:
        return self.names[label] if label < len(self.names) else str(label)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON: what the text says, with every quarantined row."""
        return {
            "task": self.task,
            "split": self.split,
            "path": self.path,
            "problem": self.fault or None,
            "rows": self.rows,
            "form": self.form or None,
            "note": self.note or None,
            "labels": {self.label_name(label): count for label, count in self.labels},
            "words": dict(zip(("least", "median", "p95", "most"), self.words, strict=True)),
            "quarantined": [{"line": row.line, "reason": row.reason} for row in self.quarantined],
        }


def place_to_check(uri: str, data: str | None = None) -> Place:
    """Where the files lie of what `data check` is given: a directory, a map, or a recipe, whose files may lie in `data`
    or be the sample's."""
    named = not Path(uri).exists() and not is_map(uri) and packaged(uri, "recipes") is not None
    if data is None and not named:
        return place_of(uri)
    from multitask.recipe.loading import load_recipe  # with torch, which a data directory is read without

    return place_of_recipe(load_recipe(uri, under=mapped(data)), data)


def check_data(uri: str, data: str | None = None) -> list[FileReport]:
    """A report for each file of a known task in the directory, of a data map's tasks, or of a recipe's, which may lie
    in `data`; files of the split `test` need no labels.

    However many rows are malformed, they are reported. Raises UserError where there is no such file.
    """
    place = place_to_check(uri, data)
    specs = place.specs().values()
    found = [(spec, split) for spec in specs for split in SPLITS if place.has(spec, split)]
    if not found and not place.directory:
        raise UserError(f"{uri}: no files; a map gives train:, dev: or test: to one of its tasks at least")
    if not found:
        known = ", ".join(f"{spec.files['train']}.csv" for spec in specs)
        holds = short_list(list_directory(uri)) or "nothing, or is not there"
        raise UserError(f"{uri}: no file of a known task, such as {known}; the directory holds {holds}")
    return [_check_file(place, spec, split) for spec, split in found]


def render(reports: Iterable[FileReport]) -> str:
    """The reports as plain text: what keeps a file from being trained on, then a block a file, then its quarantined
    rows as `path:line: reason`."""
    reports = list(reports)
    faults = [
        f"not fit to train on: {report.task} {report.split}: {report.fault}" for report in reports if report.fault
    ]
    return "\n".join([*faults, *(line for report in reports for line in _render_file(report))])


def _check_file(place: Place, spec: TaskSpec, split: Split) -> FileReport:
    columns = place.columns(spec.name, {})
    try:
        result = read_examples(
            place.find(spec, split),
            spec,
            labelled=split != "test",
            columns=columns,
            max_bad_rows=1.0,
            weight=place.weight(spec.name) if split == "train" else None,
        )
    except UserError as error:  # one broken file must not hide what the others hold
        return FileReport(spec.name, split, "", problem=str(error))
    labels = [example.label for example in result.examples if example.label is not None]
    counts = Counter(at for label in labels for at in KINDS[spec.label.kind].counted(label))
    notes = [
        _malformed(result) if split == "train" else "",
        _weights(result),
        scale_note(spec, spec.head, np.array(labels)),
    ]
    return FileReport(
        spec.name,
        split,
        result.source,
        rows=len(result.examples),
        labels=tuple(sorted(counts.items())),
        words=_word_counts(result.examples),
        quarantined=result.quarantined,
        names=spec.label.words or result.classes,
        similar=all(spec.label.is_similar(example.label) for example in result.examples),
        spread=len({example.label for example in result.examples}) > 1,
        form=result.form,
        note="; ".join(filter(None, notes)),
    )


def _malformed(result: ReadResult) -> str:
    bad, total = len(result.quarantined), len(result.quarantined) + len(result.examples)
    if bad <= MAX_BAD_ROWS * total:
        return ""
    return f"{bad} of {total} rows are malformed: `train` refuses it where max_bad_rows is {MAX_BAD_ROWS:g}"


def _weights(result: ReadResult) -> str:
    weights = [example.weight for example in result.examples]
    if all(weight == 1 for weight in weights):
        return ""
    return f"rows weigh {min(weights):g} to {max(weights):g}, {statistics.fmean(weights):.3g} on average"


def _word_counts(examples: Sequence[Example]) -> tuple[int, int, int, int]:
    counts = sorted(len(text.split()) for example in examples for text in example.texts) or [0]
    p95 = counts[min(len(counts) - 1, int(0.95 * len(counts)))]
    return counts[0], round(statistics.median(counts)), p95, counts[-1]


def _render_file(report: FileReport) -> list[str]:
    if report.problem:
        return []
    labels = "  ".join(f"{report.label_name(label)}: {count / report.rows:.1%}" for label, count in report.labels)
    least, median, p95, most = report.words
    bad = report.quarantined
    lines = [
        f"{report.task} {report.split}: {report.rows:,} rows, {len(bad)} quarantined  {report.path}",
        f"  read as {report.form}",
        f"  labels {labels or 'none'}",
        *([f"  note: {report.note}"] if report.note else []),
        f"  words a text: {least} least, {median} median, {p95} at 95 %, {most} most",
        *(f"  {report.path}:{row.line}: {row.reason}" for row in bad[:_SHOWN_ROWS]),
    ]
    return [*lines, f"  ... and {len(bad) - _SHOWN_ROWS} more"] if len(bad) > _SHOWN_ROWS else lines
