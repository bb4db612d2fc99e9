"""Drivers as the schedules run them: the real command in a process forked from a warm one, its waits shortened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import s3fs
import torch
import yaml

import lightning_modules.run  # noqa: F401  the warm part: what takes seconds to import
import ray_jobs.driver.driver
import ray_jobs.driver.telling
from lightning_modules import tensorboard
from lightning_modules.progress import Interrupted
from multitask.experiment import lease
from multitask.experiment.experiment_file import Status
from multitask.experiment.stage_job import StageJob
from multitask.storage import lag, retries
from ray_jobs.cli.program import main

# In seconds; a run's own are some ten times as long. A lag lasts two thirds of what is waited for it, as it may there.
PATIENCE, LAG, BEAT, WATCH = 8.0, 3.0, 0.4, 1.6
SWEPT = "quora/accuracy"
STAGES = [
    {"name": "mlm", "objective": "mlm", "tasks": ["sst"], "train": "full-model"},
    {"name": "para", "objective": "supervised", "tasks": ["quora"], "train": "full-model", "keep": {"best": SWEPT}},
    {"name": "last", "objective": "supervised", "tasks": ["sst"], "train": "last-linear-layer", "from": "para"},
]  # fmt: skip
RECIPE = {
    "name": "tiny",
    "encoder": "tiny",
    "data": "sample",
    "tasks": {"sst": {"head": "linear"}, "quora": {"head": "linear"}},
    "defaults": {"batch_size": 8, "max_examples": 24, "epochs": 2, "lr": 1e-2, "dropout": 0.1, "checkpoint_steps": 2},
    "stages": STAGES,
}  # fmt: skip
TRAIN = ("train",)
SWEEP = ("sweep", "--stage", "para", "--grid", "lr=1e-2,1e-3", "--by", SWEPT)


@dataclass
class Command:
    """A command as it is typed again and again. machine: where it runs, for the lease."""

    words: tuple[str, ...]
    storage: str
    folder: Path
    environment: dict[str, str]
    machine: str = "here"

    @property
    def experiment(self) -> str:
        return "tiny-sweep-para" if self.words[0] == "sweep" else "tiny"

    def start(self) -> Started:
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / f"output-{time.monotonic_ns()}.txt"
        return Started(forked(lambda: self._run(), output), output)

    def _run(self) -> None:
        recipe, temporary = self.folder / "tiny.yaml", self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        recipe.write_text(yaml.safe_dump(RECIPE))
        os.environ.update(self.environment | {"TMPDIR": str(temporary)})
        tempfile.tempdir = str(temporary)
        shortened(self.machine)
        verb, *rest = self.words
        sys.argv = ["minibert", verb, str(recipe), *rest, "--storage", self.storage]
        main()


@dataclass
class Started:
    process: int
    output: Path
    status: int | None = None  # the exit status, or minus the signal that ended it

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.status is None:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def kill(self) -> None:
        if not self.poll():
            os.kill(self.process, signal.SIGKILL)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def said(self) -> str:
        return self.output.read_text(errors="replace")


def forked(call: Callable[[], None], output: Path | None = None) -> int:
    """A process that makes the call and ends; returns its id. Nothing of fsspec's threads may run here yet."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        if output:
            descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
        call()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def shortened(machine: str) -> None:
    """The settings of a driver in a schedule; trials one after the other in its own process, without Ray Tune."""
    retries.PATIENCE, retries.LONGEST_PAUSE, retries.FIRST_PAUSE = PATIENCE, 0.5, 0.05
    lag.SECONDS, lag.LOOK_SECONDS = LAG, 0.05
    s3fs.S3FileSystem.retries = 2
    tensorboard.COPY_SECONDS = 1.0
    lease._machine = lambda: machine
    lease.Lease.__init__.__defaults__ = (BEAT, WATCH, 0.2, *lease.Lease.__init__.__defaults__[3:])
    ray_jobs.driver.driver.run_trials = one_by_one
    torch.set_num_threads(1)


def one_by_one(
    jobs: dict[str, StageJob],
    sweep: Any,
    stopped: list[str],
    workers: Any,
    screen: Any,
    stop: Any,
    lags: Any,
) -> dict[str, Status]:
    """What `run_trials` does, without Ray."""
    from ray_jobs.runners.local import LocalRunner

    ends: dict[str, Status] = {}
    with LocalRunner("cpu", screen, stop) as runner:
        for label, job in jobs.items():
            try:
                runner.run(job)
                ends[label] = "finished"
            except Interrupted:
                ends[label] = "interrupted"
    return ends


def results(storage: str, experiment: str, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """What came of an experiment, read in a process of its own: each stage's weights, moments, examples and metrics."""
    file = folder / f"results-{time.monotonic_ns()}.json"

    def read() -> None:
        os.environ.update(environment)
        file.write_text(json.dumps(_results(storage, experiment)))

    process = forked(read, folder / "reading.txt")
    os.waitpid(process, 0)
    assert file.exists(), (folder / "reading.txt").read_text()
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _results(storage: str, experiment: str) -> dict[str, Any]:
    from multitask.bundle.bundle import read_bundle
    from multitask.experiment.checkpoints import CheckpointStore
    from multitask.storage.storage import Storage

    home, found = Storage(storage).at(experiment), {}
    rows = home.read_json("results.json")["stages"]
    for name, record in home.read_json("experiment.json")["stages"].items():
        trainer = home.at(record["trainer"])
        outcome = trainer.read_json("outcome.json")
        last = CheckpointStore(trainer.at("checkpoints")).newest()
        assert last, f"{name}: no checkpoint"
        row = next(row for row in rows if row["name"] == name)
        found[name] = {
            "bundle": _digest(read_bundle(trainer.at("bundle")).tensors),
            "weights": _digest(last.weights),
            "optimizer": _digest(last.optimizer),
            "seen": outcome["examples_seen"],
            "outcome": outcome["metrics"],
            "row": row["metrics"],
            "status": row["status"],
            "settings": row.get("settings"),
        }
    return found


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def references(folder: Path, commands: Sequence[tuple[str, ...]] = (TRAIN, SWEEP)) -> dict[str, dict[str, Any]]:
    """The undisturbed runs on a disk, by verb."""
    found = {}
    for words in commands:
        command = Command(words, str(folder / "runs"), folder / words[0], {})
        started = command.start()
        while not started.poll():
            time.sleep(0.02)
        assert started.status == 0, started.said()
        found[words[0]] = results(command.storage, command.experiment, {}, command.folder)
    return found
