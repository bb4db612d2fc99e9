"""On two Ray workers: the demo from start to predictions. What may go wrong on the way: tests/faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


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
