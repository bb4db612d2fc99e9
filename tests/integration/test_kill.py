"""A driver that is killed or interrupted goes on as if nothing had happened (DESIGN rules 2 and 3)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers import difference, newest, recipe_tree, run, small_driver, small_job

STAGE = {"epochs": 20, "checkpoint_steps": 7, "validate": "stage"}


def start(folder: Path, *words: str, output: int = subprocess.PIPE, **stage: object) -> subprocess.Popen[str]:
    """`minibert train` of the small recipe, in a process of its own. output: its own, or a descriptor."""
    recipe = folder / "small.yaml"
    recipe.write_text(yaml.safe_dump(recipe_tree(**stage)))
    command = [sys.executable, "-m", "ray_jobs", "train", str(recipe), "--storage", str(folder), *words]
    # As many threads as the runs in this process: the order of summation depends on them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if "--workers" in words else "2"}
    return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_checkpoints(folder: Path, process: subprocess.Popen[str], count: int, seconds: float = 100) -> None:
    """Until a checkpoint of at least `count` steps is complete."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        steps = [int(path.parent.name[5:]) for path in folder.glob("small/*/checkpoints/step-*/manifest.json")]
        if any(step >= count for step in steps):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint after {seconds} s")


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 130, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_started_again_equals_undisturbed(tmp_path: Path, number: int, status: int) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    parts.mkdir()
    process = start(parts, **STAGE)
    wait_for_checkpoints(parts, process, 14)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == status, output
    if number != signal.SIGKILL:
        assert "go on with: minibert train" in output.splitlines()[-1]
    assert_going_on_equals_undisturbed(parts, whole)


@pytest.mark.usefixtures("hears_hangups")
def test_a_terminal_that_goes_away_stops_it_saved(tmp_path: Path) -> None:
    """As with a lost ssh session: the kernel closes the terminal, the shell tells of it twice."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    parts.mkdir()
    ours, terminal = os.openpty()
    process = start(parts, output=terminal, **STAGE)
    os.close(terminal)
    wait_for_checkpoints(parts, process, 14)
    os.close(ours)
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert process.wait(timeout=60) == 130
    log = max(parts.glob("small/logs/driver-*.log")).read_text()
    assert "interrupted; what was saved is safe" in log, log
    assert_going_on_equals_undisturbed(parts, whole)


def assert_going_on_equals_undisturbed(parts: Path, whole: Path) -> None:
    assert not list(parts.glob("small/*/outcome.json")), "the stage was meant to be stopped before its end"

    driver = small_driver(parts, **STAGE)
    driver.claim()
    trainer = driver.plan.records["para"].trainer
    process = start(parts, **STAGE)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    assert [path.parent.name for path in parts.glob("small/*/outcome.json")] == [trainer]

    undisturbed = small_job(whole, **STAGE)
    assert run(undisturbed)
    resumed = small_job(parts, **STAGE)
    assert difference(newest(undisturbed).weights, newest(resumed).weights) == 0
    assert difference(newest(undisturbed).optimizer, newest(resumed).optimizer) == 0


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = {"epochs": 2, "checkpoint_steps": 2}
    whole = small_job(tmp_path, "whole", **stage)
    assert run(whole)
    parts = small_job(tmp_path, "parts", **stage)
    assert run(parts)
    (Path(parts.folder.full("outcome.json"))).unlink()
    last = Path(parts.folder.full("checkpoints/step-00000010/weights.safetensors"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(bytes(content))
    with caplog.at_level("WARNING"):
        assert run(parts)
    assert "step-00000010" in caplog.text
    assert difference(newest(whole).weights, newest(parts).weights) == 0
