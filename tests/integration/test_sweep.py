"""Sweeps on Ray Tune: killed and run again, on workers, with trials that are stopped early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import recipe_tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
LRS = "1e-2,1e-3,1e-4"


def start(folder: Path, *words: str, **stage: Any) -> subprocess.Popen[str]:
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(recipe_tree(**stage)))
    command = [sys.executable, "-m", "ray_jobs", "sweep", str(recipe), "--stage", "para", "--grid", f"lr={LRS}"]
    return subprocess.Popen(
        [*command, "--by", "quora/accuracy", "--storage", str(folder), "--experiment", "sweep", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def complete(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    stages = json.loads((folder / "sweep" / "results.json").read_text())["stages"]
    return {stage["name"].removeprefix("para@"): stage for stage in stages}


def test_killed_after_its_first_trial_and_run_again_it_trains_no_finished_trial_again(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    stage = {"epochs": 12, "max_examples": 300, "checkpoint_steps": 5}
    complete(start(whole, **stage))
    process = start(parts, **stage)
    until = time.monotonic() + 200
    while not (finished := list(parts.glob("sweep/*/outcome.json"))):
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert len(before) < 3, "it was meant to be killed before its end"
    output = complete(start(parts, **stage))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "finished before, skipped" in output
    one, two = rows(whole), rows(parts)
    assert [two[name]["status"] for name in two] == ["measured", *["finished"] * 4]
    assert one["para"]["settings"] == two["para"]["settings"]
    for name in one:
        assert one[name]["metrics"] == two[name]["metrics"], name
    assert two["para"]["trainer"] in {row["trainer"] for name, row in two.items() if name != "para"}


def test_trials_on_workers_of_their_own_fit_a_small_machine(tmp_path: Path) -> None:
    """Two workers on two CPUs leave none for the trial itself: it must not ask for one."""
    complete(start(tmp_path, "--workers", "2", epochs=2))
    found = rows(tmp_path)
    assert [row["status"] for row in found.values()] == ["measured", *["finished"] * 4]
    assert found["para"]["settings"]["lr"] in (1e-2, 1e-3, 1e-4)
    names = [row["trainer"].split("_")[2] for row in list(found.values())[1:4]]
    assert names == ["00000", "00001", "00002"]


@pytest.mark.slow
def test_trials_that_lag_behind_are_stopped_and_stay_so(tmp_path: Path) -> None:
    stage = {"epochs": 9, "max_examples": 300}
    complete(start(tmp_path, "--asha", **stage))
    found = rows(tmp_path)
    states = [row["status"] for row in list(found.values())[1:]]
    assert set(states) <= {"finished", "stopped"} and found["para"]["status"] == "finished"
    output = complete(start(tmp_path, "--asha", **stage))
    assert [row["status"] for row in list(rows(tmp_path).values())[1:]] == states
    assert "trials," not in output  # nothing was started
