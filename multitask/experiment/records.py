"""metrics.jsonl: what was measured of a stage, a line each time, written whole by rank 0."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from multitask.experiment.checkpoints import CheckpointStore
from multitask.experiment.stage_job import read_outcome
from multitask.measure.metrics import Score, goodness
from multitask.recipe.settings import KeepBest
from multitask.recipe.stages import Stage
from multitask.storage.sealed import BLANK, Damaged, checked_text, sealed_text
from multitask.storage.storage import Storage, file_at
from multitask.storage.uris import join

FILE = "metrics.jsonl"
NOTHING: Mapping[str, Any] = MappingProxyType({})
log = logging.getLogger(__name__)


def written(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Scores as files have them, a dict a part: every metric's value, the reasons and intervals that there are."""
    return {
        "metrics": {name: found.value for name, found in scores.items()},
        "why": {name: found.why for name, found in scores.items() if found.why},
        "intervals": {name: found.interval for name, found in scores.items() if found.interval},
    }


@dataclass(frozen=True)
class Record:
    """What was measured of a stage at one time."""

    epoch: int
    """The epochs that were done."""
    steps: int
    """The optimizer steps that were done; 0 before training."""
    seconds: float
    """How long measuring took."""
    scores: Mapping[str, Score]
    """Metric -> its score."""

    @classmethod
    def of(
        cls,
        epoch: int,
        steps: int,
        seconds: float,
        metrics: Mapping[str, float | None],
        why: Mapping[str, str] = NOTHING,
        intervals: Mapping[str, Sequence[float]] = NOTHING,
    ) -> Record:
        """The record that an entry of metrics.jsonl or of an outcome, written by `to_json`, says. Raises TypeError for
        an entry of another form."""
        bounds = {name: (low, high) for name, (low, high) in intervals.items()}
        scores = {name: Score(value, why.get(name), bounds.get(name)) for name, value in metrics.items()}
        return cls(epoch, steps, seconds, scores)

    def to_json(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "steps": self.steps, "seconds": self.seconds, **written(self.scores)}

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metric -> its value."""
        return {name: found.value for name, found in self.scores.items()}


def read_records(folder: Storage, upto: float = math.inf) -> list[Record]:
    """The records of a trainer's folder up to a number of steps.

    A finished stage's records are those of its outcome; a metrics.jsonl that holds others is named in a warning. Where
    it is damaged in an unfinished stage's folder, the records are the newest checkpoint's, with a warning. Raises
    Damaged where that checkpoint, an older build's, holds none.
    """
    kept = (read_outcome(folder) or {}).get("records")
    try:
        records = _read(folder)
    except Damaged as error:
        kept = kept if kept is not None else _of_checkpoint(folder)
        if kept is None:
            raise
        log.warning("%s; taken from the stage's outcome or newest checkpoint", error)
        records = [Record.of(**entry) for entry in kept]
    if kept is not None and (ended := [Record.of(**entry) for entry in kept]) != records:
        log.warning("%s: not what the stage ended with; taken from its outcome", join(folder.uri, FILE))
        records = ended
    return [record for record in records if record.steps <= upto]


def _of_checkpoint(folder: Storage) -> Sequence[Mapping[str, Any]] | None:
    """The records that the newest checkpoint holds; none of a stage that has saved nothing yet."""
    with CheckpointStore(folder.at("checkpoints")) as store:
        newest = store.newest()
    return newest.records if newest else []


def resumed_records(folder: Storage, upto: int, covered: Sequence[Mapping[str, Any]] | None) -> list[Record]:
    """The records of a stage that goes on from a checkpoint of `upto` steps, up to there: what lies beyond is measured
    again.

    covered: the records in the checkpoint, which are taken, with a warning, where metrics.jsonl is damaged. Raises
    Damaged where it is and the checkpoint, an older build's, holds none.
    """
    try:
        return [record for record in _read(folder) if record.steps <= upto]
    except Damaged as error:
        if covered is None:
            raise
        log.warning("%s; made again from the checkpoint", error)
        return [Record.of(**entry) for entry in covered]


def _read(folder: Storage) -> list[Record]:
    """The records that metrics.jsonl holds. Raises Damaged."""
    if not folder.exists(FILE):
        return []
    where = join(folder.uri, FILE)
    text = checked_text(folder.read_bytes(FILE), where, file_at(folder.uri)[1])
    try:
        entries = [json.loads(line) for line in text.splitlines()]
        return [Record.of(**entry) for entry in entries if "seal" not in entry]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where}: damaged: {error}") from error


def write_records(folder: Storage, records: list[Record]) -> None:
    """Writes metrics.jsonl: a line with its seal, then a line a record."""
    lines = [json.dumps(entry, allow_nan=False) + "\n" for entry in ({"seal": BLANK}, *map(Record.to_json, records))]
    folder.write_bytes(FILE, sealed_text("".join(lines), file_at(folder.uri)[1]))


def out_of_patience(records: list[Record], stage: Stage) -> bool:
    """Whether the stage ends before its last epoch: for `patience` epochs none was better than the best before."""
    best = chosen(records, stage)
    if not stage.patience or best is None:
        return False
    return stage.patience <= records[-1].epoch - best.epoch and records[-1].epoch < stage.epochs


def chosen(records: list[Record], stage: Stage) -> Record | None:
    """The record of the weights that become the bundle: the last, or the first with the best metric."""
    trained = [record for record in records if record.steps]
    if not trained:
        return None
    if isinstance(stage.keep, KeepBest):
        metric = stage.keep.best
        return max(trained, key=lambda record: goodness(metric, record.metrics.get(metric)))
    return trained[-1]
