"""How the driver plans a swept stage, chooses among its trials and goes on; the trials themselves are pretended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate

import multitask
import ray_jobs.driver.driver
from lightning_modules.progress import Interrupted
from multitask.experiment.experiment_file import Status
from multitask.experiment.stage_job import OUTCOME, StageJob
from multitask.recipe.settings import Sweep
from ray_jobs.driver.driver import Driver
from ray_jobs.runners.local import LocalRunner
from ray_jobs.stopping import StopRequest
from tests.helpers import tree_driver
from tests.integration.test_plan import leave_bundle

SCHEMA = json.loads((Path(multitask.__file__).parent / "assets" / "results.schema.json").read_text())
SWEPT = {"name": "sst", "tasks": ["sst"], "lr": {"sweep": [1e-3, 1e-4, 1e-5], "by": "sst/accuracy"}}
LAST = {"name": "last", "tasks": ["quora"]}


def leave(job: StageJob, value: float | None) -> None:
    measured: dict[str, Any] = {"metrics": {"sst/accuracy": value}, "why": {}, "intervals": {}}
    outcome = {"epochs": 1, "steps": 3, "seconds": 1.0, "examples_per_second": 9.0, **measured, "start": None}
    leave_bundle(job)
    job.folder.write_json(OUTCOME, {**outcome, "start": measured if job.measure_start else None})


class Trials:
    """Stands for Ray Tune. values: label -> what a trial is to score, or the way in which it ends otherwise."""

    def __init__(self, values: dict[str, float | Status | None]) -> None:
        self.values, self.calls = values, list[tuple[dict[str, StageJob], list[str]]]()

    def __call__(
        self,
        jobs: dict[str, StageJob],
        sweep: Sweep,
        stopped: list[str],
        workers: Any,
        screen: Any,
        stop: StopRequest,
        lags: Any,
    ) -> dict[str, Status]:
        self.calls.append((jobs, stopped))
        ends: dict[str, Status] = {}
        for label, job in jobs.items():
            value = self.values[label.partition("=")[2]]
            if isinstance(value, str):
                ends[label] = value
                continue
            if not job.folder.exists(OUTCOME):
                leave(job, value)
            ends[label] = "finished"
        return ends


def execute(monkeypatch: pytest.MonkeyPatch, driver: Driver, trials: Trials) -> tuple[list[StageJob], dict[str, Any]]:
    """The jobs of ordinary stages, and the results."""
    ordinary: list[StageJob] = []

    def run(self: LocalRunner, job: StageJob) -> int:
        ordinary.append(job)
        leave(job, 0.9)
        return 0

    monkeypatch.setattr(LocalRunner, "run", run)
    monkeypatch.setattr(ray_jobs.driver.driver, "run_trials", trials)
    with StopRequest("") as stop:
        return ordinary, driver.run(stop)


def swept(folder: Path, *stages: dict[str, Any], seeds: int = 1) -> Driver:
    return tree_driver(folder, list(stages or [SWEPT, LAST]), seeds=seeds)


def test_the_next_stage_starts_from_the_best_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials({"0.001": 0.3, "0.0001": 0.5, "1e-05": 0.4})
    (last,), results = execute(monkeypatch, swept(tmp_path), trials)
    validate(results, SCHEMA)
    rows = {row["name"]: row for row in results["stages"]}
    assert list(rows) == ["encoder", "sst@lr=0.001", "sst@lr=0.0001", "sst@lr=1e-05", "sst", "last"]
    assert [row["trainer"].split("_")[2] for row in list(rows.values())[1:4]] == ["00000", "00001", "00002"]
    chosen = rows["sst"]
    assert chosen["trainer"] == rows["sst@lr=0.0001"]["trainer"] and chosen["settings"] == {"lr": 1e-4}
    assert chosen["metrics"] == {"sst/accuracy": 0.5} and chosen["status"] == "finished"
    assert last.model.start == f"tree/{chosen['trainer']}/bundle"
    jobs, _ = trials.calls[0]
    assert [job.stage["lr"] for job in jobs.values()] == [1e-3, 1e-4, 1e-5]
    assert {job.by for job in jobs.values()} == {"sst/accuracy"}
    assert [job.measure_start for job in jobs.values()] == [True, False, False]


def test_run_again_nothing_is_trained_and_the_same_trial_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"0.001": 0.3, "0.0001": 0.5, "1e-05": 0.4}
    _, before = execute(monkeypatch, swept(tmp_path), Trials(values))
    again = Trials(values)
    ordinary, after = execute(monkeypatch, swept(tmp_path), again)
    assert (ordinary, again.calls) == ([], [])
    assert [row["trainer"] for row in after["stages"]] == [row["trainer"] for row in before["stages"]]


def test_a_sweep_that_was_interrupted_goes_on_under_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials({"0.001": 0.3, "0.0001": "interrupted", "1e-05": "interrupted"})
    with pytest.raises(Interrupted):
        execute(monkeypatch, swept(tmp_path), trials)
    saved = json.loads((tmp_path / "tree" / "results.json").read_text())
    assert [row["status"] for row in saved["stages"][1:]] == [
        "finished", "interrupted", "interrupted", "interrupted", "pending",
    ]  # fmt: skip
    again = Trials({"0.001": 0.3, "0.0001": 0.2, "1e-05": 0.1})
    _, results = execute(monkeypatch, swept(tmp_path), again)
    trainers = [{label: job.owner.trainer for label, job in call[0].items()} for call in (*trials.calls, *again.calls)]
    assert trainers[0] == trainers[1]
    assert results["stages"][4]["settings"] == {"lr": 1e-3}


def test_a_trial_that_failed_or_was_stopped_does_not_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials({"0.001": "failed", "0.0001": 0.2, "1e-05": "stopped"})
    _, results = execute(monkeypatch, swept(tmp_path), trials)
    assert [row["status"] for row in results["stages"][1:5]] == ["failed", "finished", "stopped", "finished"]
    assert results["stages"][4]["settings"] == {"lr": 1e-4}


def test_a_sweep_without_a_finished_trial_fails_and_says_how_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials({"0.001": "failed", "0.0001": None, "1e-05": "stopped"})
    with pytest.raises(RuntimeError, match=r"no trial has a value of sst/accuracy.*'sst@lr=0.001': 'failed'"):
        execute(monkeypatch, swept(tmp_path), trials)
    saved = json.loads((tmp_path / "tree" / "results.json").read_text())
    assert saved["stages"][4]["status"] == "failed"
    stopped_before = Trials({"0.001": 0.1, "0.0001": 0.2, "1e-05": 0.3})
    execute(monkeypatch, swept(tmp_path), stopped_before)
    assert stopped_before.calls[0][1] == ["sst@lr=1e-05"]


def test_another_grid_under_the_same_name_is_another_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {"0.001": 0.3, "0.0001": 0.5, "1e-05": 0.4, "1e-06": 0.6}
    execute(monkeypatch, swept(tmp_path), Trials(values))
    wider = {**SWEPT, "lr": {"sweep": [1e-3, 1e-4, 1e-5, 1e-6], "by": "sst/accuracy"}}
    with pytest.raises(Exception, match="holds another stage 'sst'"):
        execute(monkeypatch, swept(tmp_path, wider, LAST), Trials(values))


def test_each_seed_has_its_trials_and_its_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials({"0.001": 0.3, "0.0001": 0.5, "1e-05": 0.4})
    _, results = execute(monkeypatch, swept(tmp_path, seeds=2), trials)
    chosen = [row for row in results["stages"] if row["name"] == "sst"]
    assert [row["variant"] for row in chosen] == [0, 1] and chosen[0]["trainer"] != chosen[1]["trainer"]
    assert [len(jobs) for jobs, _ in trials.calls] == [3, 3]
