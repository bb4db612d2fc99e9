"""Sweeps on Ray Tune: killed and run again, on workers, with trials that are stopped early."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from lightning_modules.summary import BEST
from multitask.bundle.bundle import read_bundle
from multitask.experiment.results import cell
from multitask.report import write_report
from multitask.report.as_markdown import escaped
from multitask.storage.storage import Storage
from tests.helpers import recipe_tree

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
LRS = "1e-2,1e-3"
MORE = "1e-2,1e-3,1e-4"  # of which one in three goes on


def start(folder: Path, *words: str, lrs: str = LRS, **stage: Any) -> subprocess.Popen[str]:
    recipe = folder / "small.yaml"
    tree = recipe_tree(**stage)
    last = {"name": "last", "tasks": ["sst"], "train": "last-linear-layer", "lr": 1e-2, "epochs": 1}
    recipe.write_text(yaml.safe_dump({**tree, "stages": [*tree["stages"], last]}))
    command = [sys.executable, "-m", "ray_jobs", "sweep", str(recipe), "--stage", "para", "--grid", f"lr={lrs}"]
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
    assert len(before) < 2, "it was meant to be killed before its end"
    output = complete(start(parts, **stage))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "finished before, skipped" in output
    one, two = rows(whole), rows(parts)
    assert [two[name]["status"] for name in two] == ["measured", *["finished"] * 3]
    assert one["para"]["settings"] == two["para"]["settings"]
    for name in one:
        assert one[name]["metrics"] == two[name]["metrics"], name
    assert two["para"]["trainer"] in {row["trainer"] for name, row in two.items() if name != "para"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep on two workers, and what it said with --quiet."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, complete(start(folder, "--workers", "2", "--quiet", epochs=2))


def test_trials_on_workers_of_their_own_fit_a_small_machine(swept: tuple[Path, str]) -> None:
    """Two workers on two CPUs leave none for the trial itself: it must not ask for one."""
    found = rows(swept[0])
    assert [row["status"] for row in found.values()] == ["measured", *["finished"] * 3]
    assert found["para"]["settings"]["lr"] in (1e-2, 1e-3)
    names = [row["trainer"].split("_")[2] for row in list(found.values())[1:3]]
    assert names == ["00000", "00001"]


def test_it_tells_one_story(swept: tuple[Path, str]) -> None:
    """On the terminal, in the report, in results.json and in TensorBoard: which trial won, and by what."""
    folder, output = swept
    found = rows(folder)
    scores = {name: row["metrics"]["quora/accuracy"] for name, row in found.items() if name.startswith("lr=")}
    best = max(scores, key=scores.__getitem__)
    story = f"para: {best} is the best of 2 trials by quora/accuracy, {cell(scores[best])}"
    assert f"* {story}\n" in output
    report = Path(write_report(str(folder / "sweep"))[1]).read_text()
    assert f"Last stage, para: sst accuracy {cell(found['para']['metrics']['sst/accuracy'])}" in report
    assert report.count(escaped(story)) == 2, "below the heading, and below the table"
    assert {row["sweep"]["best"] for name, row in found.items() if name != "encoder"} == {f"para@{best}"}
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder / "sweep"))
    runs.Reload()
    name = {trial: f"{row['trainer']}/para {trial} seed=11711" for trial, row in found.items() if trial in scores}
    assert set(runs.Runs()) == set(name.values())
    assert [trial for trial in name if BEST in runs.Runs()[name[trial]]["tensors"]] == [best]


def test_the_command_that_it_names_goes_on_from_the_best_trials_weights(swept: tuple[Path, str]) -> None:
    folder, output = swept
    before = rows(folder)["para"]
    (line,) = [line for line in output.splitlines() if line.startswith("go on: ")]
    words = shlex.split(line.partition("minibert ")[2])
    words[words.index("--workers") + 1] = "0"  # Ray has shown what it can
    done = subprocess.run([sys.executable, "-m", "ray_jobs", *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"para: finished before, skipped ({before['trainer']})" in done.stdout
    after = rows(folder)
    assert list(after) == ["encoder", "para", "last"] and after["para"]["settings"] == before["settings"]
    start, end = (read_bundle(Storage(str(folder / "sweep" / after[name]["bundle"]))) for name in ("para", "last"))
    frozen = {name for name in start.tensors if not name.startswith("heads.sst.")}
    assert all(start.tensors[name].equal(end.tensors[name]) for name in frozen)
    assert any(not start.tensors[name].equal(end.tensors[name]) for name in start.tensors)


@pytest.mark.slow
def test_trials_that_lag_behind_are_stopped_and_stay_so(tmp_path: Path) -> None:
    stage = {"epochs": 9, "max_examples": 300}
    complete(start(tmp_path, "--asha", lrs=MORE, **stage))
    found = rows(tmp_path)
    states = [row["status"] for row in list(found.values())[1:]]
    assert set(states) <= {"finished", "stopped"} and found["para"]["status"] == "finished"
    output = complete(start(tmp_path, "--asha", lrs=MORE, **stage))
    assert [row["status"] for row in list(rows(tmp_path).values())[1:]] == states
    assert "trials," not in output  # nothing was started
