"""On two Ray workers: the demo from start to predictions, and a stage one of whose workers is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import difference, newest, run_ranks, small_job
from tests.integration.test_kill import start, wait_for_checkpoints

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
STAGE = {"epochs": 100, "checkpoint_steps": 10, "validate": "stage"}


def test_the_demo_trains_on_two_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ray_jobs", "train", "demo", "--workers", "2", "--storage", str(tmp_path)]
    done = subprocess.run([*command, "--set", "defaults.epochs=3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = json.loads((tmp_path / "demo" / "results.json").read_text())["stages"]
    assert [stage["status"] for stage in stages] == ["measured", "finished", "finished", "finished"]
    assert [stage["workers"] for stage in stages[1:]] == [2, 2, 2]
    first, last = stages[0]["metrics"], stages[-1]["metrics"]
    assert last["overall/normalised"] > first["overall/normalised"] + 0.1
    predictions = tmp_path / "demo" / stages[-1]["trainer"] / "predictions"
    assert len(list(predictions.glob("*-output.csv"))) == 6
    assert "tensorboard --logdir" in done.stdout


def train_workers() -> list[int]:
    """The process ids of the Ray train workers on this machine."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"RayTrainWorker" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:  # it ended meanwhile
            continue
    return sorted(found)


def test_a_killed_worker_is_replaced_and_the_outcome_is_the_same(tmp_path: Path) -> None:
    before = set(train_workers())
    process = start(tmp_path, "--workers", "2", **STAGE)
    wait_for_checkpoints(tmp_path, process, 20)
    victims = [worker for worker in train_workers() if worker not in before]
    assert len(victims) == 2
    os.kill(victims[-1], signal.SIGKILL)
    assert not list(tmp_path.glob("small/*/outcome.json")), "the worker was meant to be killed before the stage's end"
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output

    undisturbed = small_job(tmp_path / "undisturbed", **STAGE)
    run_ranks(undisturbed, world=2)
    killed = small_job(tmp_path, **STAGE)
    assert difference(newest(undisturbed).weights, newest(killed).weights) == 0
    assert difference(newest(undisturbed).optimizer, newest(killed).optimizer) == 0


def test_an_interrupted_run_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, "--workers", "2", **STAGE)
    wait_for_checkpoints(tmp_path, process, 20)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert time.monotonic() - began < 60
    assert "go on with: minibert train" in output
    job = small_job(tmp_path, **STAGE)
    record = json.loads((tmp_path / "small" / "results.json").read_text())["stages"][1]
    assert record["status"] == "interrupted" and record["trainer"] == job.trainer
    assert newest(job).state.position.steps > 20
