"""What an experiment has taken: seconds and worker-hours of each stage and, where an hour has a price, money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from multitask.experiment.checkpoints import CheckpointStore
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.results import Rows
from multitask.experiment.stage_job import read_outcome
from multitask.recipe.sweeps import stage_of
from multitask.report.blocks import Cell, ReportTable, Section
from multitask.report.numbers import DASH, duration, quantity
from multitask.storage.storage import Storage

HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Spent:
    """What one trainer has taken."""

    trainer: str
    """Its name."""
    stage: str
    """The stage that it trained, or whose trial it was."""
    workers: int
    """How many at a time; this process alone counts as one."""
    seconds: float | None
    """Training and measuring over all attempts, as far as it is kept; None where nothing says so any more."""
    superseded: bool = False
    """Whether `--fresh` has put another in its place."""


@dataclass(frozen=True)
class Cost:
    """What some trainers have taken together."""

    runs: int
    seconds: float
    worker_hours: float
    money: float | None
    """None without a price."""

    @staticmethod
    def of(spent: Sequence[Spent], price: float | None) -> Cost:
        """What all of them have taken. price: of a worker's hour."""
        seconds = math.fsum(one.seconds or 0.0 for one in spent)
        hours = math.fsum((one.seconds or 0.0) * one.workers for one in spent) / HOUR
        return Cost(len(spent), seconds, hours, None if price is None else hours * price)

    def line(self, price: float | None) -> str:
        """The cost in one line: `12 min 5 s of training and measuring, 0.40 worker-hours, 1.01 at 2.5 an hour`."""
        said = f"{duration(self.seconds)} of training and measuring, {quantity(self.worker_hours)} worker-hours"
        return said if self.money is None else f"{said}, {quantity(self.money)} at {price:g} an hour"


def spent_in(folder: Storage, made: Experiment, rows: Rows) -> list[Spent]:
    """What each trainer that the experiment has had took, each once: a swept stage's is its best trial's."""
    told = {row["trainer"]: row["seconds"] for row in rows}
    found: dict[str, Spent] = {}
    named = [(key, vars(record), False) for key, record in made.stages.items()]
    named += [(old["stage"], old, True) for old in made.superseded]
    for key, record, superseded in named:
        if record["trainer"] and record["status"] != "pending":  # a sweep that has not ended has no trainer
            found.setdefault(record["trainer"], _spent(folder, key, record, told.get(record["trainer"]), superseded))
    return list(found.values())


def _spent(folder: Storage, key: str, record: Mapping[str, Any], seconds: float | None, superseded: bool) -> Spent:
    if seconds is None:
        seconds = _left(folder.at(record["trainer"]))
    stage = stage_of(key).partition("#")[0]
    return Spent(record["trainer"], stage, max(1, record["workers"]), seconds, superseded)


def _left(trainer: Storage) -> float | None:
    """The seconds that a trainer's outcome tells of or, where it has not ended, its newest checkpoint."""
    if outcome := read_outcome(trainer):
        return float(outcome["seconds"])
    with CheckpointStore(trainer.at("checkpoints")) as store:
        newest = store.newest()
    if newest is None:
        return None
    return newest.state.seconds + math.fsum(record["seconds"] for record in newest.records or ())


def cost_section(spent: Sequence[Spent], attempts: int, price: float | None) -> Section:
    """A row a stage, its seeds and trials together, then what others have superseded, then all of it."""
    groups: dict[str, list[Spent]] = {}
    for one in spent:
        groups.setdefault(f"{one.stage}, superseded" if one.superseded else one.stage, []).append(one)
    rows = [_row(name, some, price) for name, some in groups.items()]
    rows.append(_row("in all", spent, price, strong=True))
    header = ["stage", "runs", "time", "worker-hours", *([] if price is None else [f"at {price:g} an hour"])]
    notes = ["Runs: seeds and trials. Time: training and measuring, of all runs one after the other. Worker-hours: the "
             "time times the workers, one where there are none; on GPUs each has one."]  # fmt: skip
    notes.append(
        f"The experiment was begun {'once' if attempts < 2 else f'{attempts} times'}. What a stage had done when it "
        "was stopped counts; what a kill has lost behind the newest checkpoint, starting up, preparing data, and "
        "machines that wait are not recorded."
    )
    return Section("Cost", tables=[ReportTable("What the experiment has taken", header, rows, notes=notes)])


def _row(name: str, spent: Sequence[Spent], price: float | None, strong: bool = False) -> list[Cell]:
    cost, unknown = Cost.of(spent, price), sum(one.seconds is None for one in spent)
    missing = f"{unknown} not known" if unknown else ""
    texts = [duration(cost.seconds), quantity(cost.worker_hours), *([] if price is None else [quantity(cost.money)])]
    texts = [DASH] * len(texts) if unknown == len(spent) else texts
    return [Cell(name), Cell(str(cost.runs), missing, strong=strong), *(Cell(text, strong=strong) for text in texts)]


def cost_document(spent: Sequence[Spent], price: float | None) -> dict[str, Any]:
    """The cost for --json: of all, and of each trainer."""
    found = asdict(Cost.of(spent, price))
    return {**found, "price": price, "trainers": [asdict(one) for one in spent]}
