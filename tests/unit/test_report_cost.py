"""What an experiment has taken: seconds, worker-hours and money, from what its trainers have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from multitask.errors import UserError
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore, Position, State
from multitask.experiment.stage_job import write_outcome
from multitask.report.compose import compose
from multitask.report.cost import Cost, Spent
from multitask.report.numbers import quantity
from multitask.report.reading import read_evidence
from multitask.storage.storage import Storage
from ray_jobs.cli import app
from ray_jobs.options import hourly_price
from tests.reports import FINISHED, stage, texts, trainer, write


def experiment(folder: Path, stages: list[dict[str, Any]], **changed: Any) -> Storage:
    """An experiment whose experiment.json says something else of some stages, or of `superseded`."""
    home = write(folder, stages)
    made = json.loads(home.read_bytes("experiment.json"))
    made["superseded"] = changed.pop("superseded", [])
    for name, facts in changed.items():
        made["stages"][name] |= facts
    home.write_json("experiment.json", made)
    return home


def test_worker_hours_are_the_time_times_the_workers(tmp_path: Path) -> None:
    found = read_evidence(experiment(tmp_path, FINISHED, sts={"workers": 2}, sst={"workers": 0}))
    cost = Cost.of(found.spent, 36.0)
    assert (cost.runs, cost.seconds) == (2, 130.0)
    assert cost.worker_hours == pytest.approx((2 * 65 + 65) / 3600, rel=1e-12)
    assert cost.money == pytest.approx(1.95, rel=1e-12)
    (table,) = next(section for section in compose(found, 36.0).sections if section.title == "Cost").tables
    assert table.header == ["stage", "runs", "time", "worker-hours", "at 36 an hour"]
    assert texts(table) == {
        "sts": ["1", "1 min 5 s", "0.036", "1.30"],
        "sst": ["1", "1 min 5 s", "0.018", "0.65"],
        "in all": ["2", "2 min 10 s", "0.054", "1.95"],
    }
    assert dict(compose(found, 36.0).facts)["Cost"] == (
        "2 min 10 s of training and measuring, 0.054 worker-hours, 1.95 at 36 an hour"
    )


def test_without_a_price_there_is_no_money(tmp_path: Path) -> None:
    report = compose(read_evidence(write(tmp_path, FINISHED)))
    assert dict(report.facts)["Cost"] == "2 min 10 s of training and measuring, 0.036 worker-hours"
    assert report.document["cost"]["money"] is None and report.document["cost"]["price"] is None
    assert [one["trainer"] for one in report.document["cost"]["trainers"]] == [trainer("sts"), trainer("sst")]


def test_a_stopped_stage_has_cost_what_its_newest_checkpoint_says(tmp_path: Path) -> None:
    late = stage("late", "sst", {}, status="interrupted", seconds=None)
    home = experiment(tmp_path, [*FINISHED, late], late={"status": "interrupted"})
    records = [{"seconds": 1.5}, {"seconds": 2.0}]
    with CheckpointStore(home.at(trainer("late")).at("checkpoints")) as store:
        for steps, seconds in ((5, 8.0), (10, 12.5)):
            state = State(Position(0, steps, steps), seconds)
            store.save(Checkpoint(state, {"w": torch.zeros(1)}, {}, records=records))
            store.flush()
    spent = {one.stage: one.seconds for one in read_evidence(home).spent}
    assert spent == {"sts": 65.0, "sst": 65.0, "late": 16.0}


def test_what_was_superseded_has_cost_too_and_a_trainer_that_is_gone_is_counted(tmp_path: Path) -> None:
    old = {"stage": "sst#1", "trainer": trainer("old"), "workers": 4, "status": "finished"}
    gone = {"stage": "sst", "trainer": trainer("gone"), "workers": 0, "status": "finished"}
    home = experiment(tmp_path, FINISHED, superseded=[old, gone])
    write_outcome(home.at(trainer("old")), {"seconds": 90.0})
    found = read_evidence(home)
    assert Spent(trainer("old"), "sst", 4, 90.0, superseded=True) in found.spent
    (table,) = next(section for section in compose(found).sections if section.title == "Cost").tables
    row = next(row for row in table.rows if row[0].text == "sst, superseded")
    assert [cell.text for cell in row[1:]] == ["2", "1 min 30 s", "0.10"] and row[1].note == "1 not known"


def test_what_has_not_begun_has_cost_nothing(tmp_path: Path) -> None:
    late = stage("late", "sst", {}, status="pending", seconds=None)
    home = experiment(tmp_path, [*FINISHED, late], late={"status": "pending"})
    assert [one.stage for one in read_evidence(home).spent] == ["sts", "sst"]


# The price


@pytest.mark.parametrize("text", ["2,5", "nan", "inf", "-1", "0", "", "1e3", "2.5 USD", "99999999999", "٣"])
def test_a_price_that_is_no_number_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(
        UserError, match=r"^--price '.*': what a worker costs in an hour, a number such as 2\.5"
    ) as found:
        hourly_price(text)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("text", "price"), [("2.5", 2.5), ("3", 3.0), (".9", 0.9), ("0.0125", 0.0125)])
def test_a_price_is_a_plain_number(text: str, price: float) -> None:
    assert hourly_price(text) == price


def test_the_command_says_the_cost_and_writes_nothing_for_a_bad_price(tmp_path: Path) -> None:
    write(tmp_path, FINISHED)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--price", "2,5"])
    assert isinstance(done.exception, UserError) and not (tmp_path / "report.md").exists()
    done = CliRunner().invoke(app, ["report", str(tmp_path), "-q", "--price", "36"])
    assert "cost:   2 min 10 s of training and measuring, 0.036 worker-hours, 1.30 at 36 an hour" in done.output
    assert "at 36 an hour" in (tmp_path / "report.md").read_text()
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--json", "--price", "36"])
    assert json.loads(done.stdout)["cost"]["money"] == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.00123, "0.0012"), (0.054166, "0.054"), (0.1, "0.10"), (12.5, "12.50"), (12345.678, "12,345.68")],
)
def test_hours_and_money_have_the_digits_that_say_something(value: float, text: str) -> None:
    assert quantity(value) == text
