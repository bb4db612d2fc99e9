"""metrics.jsonl: what was measured of a stage, a line each time, written whole by rank 0."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field

from multitask.errors import well_formed
from multitask.metrics import goodness
from multitask.recipe import Stage
from multitask.recipe_parts import KeepBest
from multitask.storage import Storage, join

FILE = "metrics.jsonl"


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
    """The records up to that many steps; what lies beyond the checkpoint is measured again."""
    if not folder.exists(FILE):
        return []
    with well_formed(join(folder.uri, FILE)):
        records = [Record(**json.loads(line)) for line in folder.read_bytes(FILE).decode().splitlines()]
    return [record for record in records if record.steps <= upto]


def write_records(folder: Storage, records: list[Record]) -> None:
    lines = [json.dumps(asdict(record), allow_nan=False) + "\n" for record in records]
    folder.write_bytes(FILE, "".join(lines).encode())


def chosen(records: list[Record], stage: Stage) -> Record | None:
    """The record of the weights that become the bundle: the last, or the first with the best metric."""
    trained = [record for record in records if record.steps]
    if not trained:
        return None
    if isinstance(stage.keep, KeepBest):
        metric = stage.keep.best
        return max(trained, key=lambda record: goodness(metric, record.metrics.get(metric)))
    return trained[-1]
