"""metrics.jsonl: what was measured of a stage, a line each time, written whole by rank 0."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from multitask.checkpoints import CheckpointStore
from multitask.experiment import read_outcome
from multitask.metrics import goodness
from multitask.recipe import Stage
from multitask.recipe_parts import KeepBest
from multitask.sealed import BLANK, Damaged, checked_text, sealed_text
from multitask.storage import Storage, file_at, join

FILE = "metrics.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """Dev metrics after `epoch` epochs and `steps` steps; steps 0 is before training. intervals: 95 %."""

    epoch: int
    steps: int
    seconds: float
    metrics: dict[str, float | None]
    why: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def read_records(folder: Storage, upto: float = math.inf) -> list[Record]:
    """The records of a trainer's folder up to that many steps.

    A finished stage's are those of its outcome; metrics.jsonl that holds others is named in a warning. Where it is
    damaged in an unfinished stage's folder they are those of the newest checkpoint, with a warning. Raises Damaged
    where that checkpoint, an older build's, holds none.
    """
    kept = (read_outcome(folder) or {}).get("records")
    try:
        records = _read(folder)
    except Damaged as error:
        kept = kept if kept is not None else _of_checkpoint(folder)
        if kept is None:
            raise
        log.warning("%s; taken from the stage's outcome or newest checkpoint", error)
    else:
        if kept is not None and [Record(**entry) for entry in kept] != records:
            log.warning("%s: not what the stage ended with; taken from its outcome", join(folder.uri, FILE))
    if kept is not None:
        records = [Record(**entry) for entry in kept]
    return [record for record in records if record.steps <= upto]


def _of_checkpoint(folder: Storage) -> Sequence[Mapping[str, Any]] | None:
    """The records that the newest checkpoint holds; none of a stage that has saved nothing yet."""
    with CheckpointStore(folder.at("checkpoints")) as store:
        newest = store.newest()
    return newest.records if newest else []


def resumed_records(folder: Storage, upto: int, covered: Sequence[Mapping[str, Any]] | None) -> list[Record]:
    """The records up to the checkpoint, of `upto` steps, that a stage goes on from: what lies beyond is measured again.

    covered: those that the checkpoint holds, which are taken, with a warning, where metrics.jsonl is damaged. Raises
    Damaged where that is so and the checkpoint, an older build's, holds none.
    """
    try:
        return [record for record in _read(folder) if record.steps <= upto]
    except Damaged as error:
        if covered is None:
            raise
        log.warning("%s; made again from the checkpoint", error)
        return [Record(**entry) for entry in covered]


def _read(folder: Storage) -> list[Record]:
    """Raises Damaged."""
    if not folder.exists(FILE):
        return []
    where = join(folder.uri, FILE)
    text = checked_text(folder.read_bytes(FILE), where, file_at(folder.uri)[1])
    try:
        entries = [json.loads(line) for line in text.splitlines()]
        return [Record(**entry) for entry in entries if "seal" not in entry]
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"{where}: damaged: {error}") from error


def write_records(folder: Storage, records: list[Record]) -> None:
    """Writes metrics.jsonl: a line with its seal, then a line a record."""
    lines = [json.dumps(entry, allow_nan=False) + "\n" for entry in ({"seal": BLANK}, *map(asdict, records))]
    folder.write_bytes(FILE, sealed_text("".join(lines), file_at(folder.uri)[1]))


def chosen(records: list[Record], stage: Stage) -> Record | None:
    """The record of the weights that become the bundle: the last, or the first with the best metric."""
    trained = [record for record in records if record.steps]
    if not trained:
        return None
    if isinstance(stage.keep, KeepBest):
        metric = stage.keep.best
        return max(trained, key=lambda record: goodness(metric, record.metrics.get(metric)))
    return trained[-1]
