"""What the fault tests share: an experiment of three stages on three ranks, what it was fed, and how it compares."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from lightning_modules.trace import VARIABLE
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore
from multitask.storage.storage import Storage
from tests.helpers import difference

RANKS = 3
STAGES = ("mlm", "rank", "sup")
# Ten steps an epoch; a checkpoint every seven, so that most of them lie amid an epoch.
DEFAULTS = {
    "batch_size": 15, "max_examples": 150, "dropout": 0.3, "epochs": 14, "lr": 1.0e-3, "checkpoint_steps": 7,
    "validate": "stage",
}  # fmt: skip
RECIPE = {
    "name": "faults",
    "encoder": "tiny",
    "data": "sample",
    "seed": 7,
    "tasks": {"sst": {"head": "mlp"}, "quora": {"head": "mlp"}, "sts": {"head": "cosine"}},
    "stages": [
        {"name": "mlm", "objective": "mlm", "tasks": ["sst"], "train": "full-model"},
        {"name": "rank", "objective": "ranking", "tasks": ["quora"], "train": "full-model"},
        {"name": "sup", "objective": "supervised", "tasks": ["quora"], "train": "full-model"},
    ],
}  # fmt: skip


def random_step(scenario: str) -> tuple[str, int]:
    """A stage, and a step amid one of its epochs; another one for every scenario, the same one each time."""
    draw = random.Random(scenario)
    return draw.choice(STAGES), 10 * draw.randrange(2, 9) + draw.randrange(1, 9)


Place = tuple[str, int]  # stage, optimizer step


class Fed:
    """What the traces say: place -> number of ranks -> rank -> the ids that it was fed, each time that it was there."""

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self.ids: dict[Place, dict[int, dict[int, list[list[str]]]]] = {}
        for line in lines:
            worlds = self.ids.setdefault((line["stage"], line["step"]), {})
            worlds.setdefault(line["world"], {}).setdefault(line["rank"], []).append(line["ids"])

    def batches(self) -> dict[Place, list[str]]:
        """Each step's global batch. Fails where it was another one before a fault than after it.

        Without a step that was taken once only, and in which a rank was killed before it wrote its line.
        """
        found = {place: self._batch(place, worlds) for place, worlds in self.ids.items()}
        return {place: batch for place, batch in found.items() if batch is not None}

    def _batch(self, place: Place, worlds: dict[int, dict[int, list[list[str]]]]) -> list[str] | None:
        found = []
        for world, ranks in worlds.items():
            for rank, times in ranks.items():
                assert all(ids == times[0] for ids in times), f"{place}, rank {rank} of {world}: fed {times}"
            if len(ranks) == world:  # not a step in which a rank was killed
                found.append(sorted(name for times in ranks.values() for name in times[0]))
        assert all(batch == found[0] for batch in found), f"{place}: {found}"
        return found[0] if found else None

    def repeated(self) -> int:
        """Steps that rank 0 took more than once."""
        return sum(sum(len(ranks.get(0, [])) for ranks in worlds.values()) - 1 for worlds in self.ids.values())

    def worlds(self) -> set[int]:
        return {world for worlds in self.ids.values() for world in worlds}


class Run:
    """One experiment in `folder`, its storage there or elsewhere; `start` may be called again, once it has ended."""

    started: ClassVar[list[Run]] = []

    def __init__(
        self, folder: Path, storage: str | None = None, environment: dict[str, str] | None = None, **defaults: object
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.storage = folder, storage or str(folder / "storage")
        self.trace = folder / "trace"
        recipe = {**RECIPE, "defaults": {**DEFAULTS, **defaults}}
        (folder / "faults.yaml").write_text(yaml.safe_dump(recipe))
        self.environment = {
            **os.environ, **(environment or {}), VARIABLE: str(self.trace), "OMP_NUM_THREADS": "1",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        }  # fmt: skip
        self.process: subprocess.Popen[str] | None = None
        self.began = 0.0

    def start(self, workers: str = str(RANKS), **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ray_jobs", "train", str(self.folder / "faults.yaml")]
        self.log = self.folder / f"output-{time.monotonic_ns()}.txt"
        self.began = time.monotonic()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, "--storage", self.storage, "--workers", workers],
                stdout=log, stderr=subprocess.STDOUT, text=True, env={**self.environment, **environment},
                start_new_session=True,
            )  # fmt: skip
        self.started.append(self)
        return self.process

    def end(self) -> None:
        """Leaves nothing running, however the test ended."""
        if self.process and self.process.poll() is None:
            self.kill()

    def output(self) -> str:
        return self.log.read_text()

    def finish(self, seconds: float = 300) -> int:
        """Waits for the process to end; its exit status."""
        assert self.process
        return self.process.wait(seconds)

    def complete(self, seconds: float = 300) -> None:
        status = self.finish(seconds)
        assert status == 0, f"exit status {status}: {self.output()[-3000:]}"

    def furthest(self, stage: str) -> int:
        return max((line["step"] for line in self._lines() if line["stage"] == stage), default=0)

    def wait_for(self, stage: str, step: int, seconds: float = 240) -> float:
        """Until a rank has done that step; returns the time."""
        return self.until(lambda: self.furthest(stage) >= step, f"{stage} at step {step}", seconds)

    def until(self, true: Callable[[], bool], what: str, seconds: float = 240) -> float:
        end = time.monotonic() + seconds
        while not true():
            assert self.process and self.process.poll() is None, f"ended before {what}: {self.output()[-3000:]}"
            assert time.monotonic() < end, f"no {what} within {seconds} s: {self.output()[-3000:]}"
            time.sleep(0.05)
        return time.monotonic()

    def recovers(self, stage: str, since: float, before: set[Path]) -> float:
        """Seconds since a fault until workers that were not there before it do a step that was not done before it."""
        reached = max((line["step"] for line in self._lines(before) if line["stage"] == stage), default=0)

        def beyond() -> bool:
            new = [line for line in self._lines(self.traces() - before)]
            return any(line["stage"] != stage or line["step"] > reached for line in new)

        return self.until(beyond, f"{stage} beyond step {reached}") - since

    def traces(self) -> set[Path]:
        """One of every process that has trained."""
        return set(self.trace.glob("*.jsonl"))

    def pid_of(self, rank: int) -> int:
        """The newest process of that rank."""
        mine = [path for path in self.traces() if any(line["rank"] == rank for line in self._lines({path}))]
        return int(max(mine, key=lambda path: path.stat().st_mtime).stem.rpartition("-")[2])

    def kill(self) -> None:
        """The driver, by SIGKILL; returns when its workers are gone too."""
        assert self.process
        orphans = workers_of(self.process.pid)
        self.process.kill()
        self.process.wait()
        while any(_is_worker(orphan) for orphan in orphans):
            time.sleep(0.05)

    def interrupt(self, number: int = signal.SIGINT) -> float:
        """A signal, to the whole group of processes as a terminal does it; returns the time."""
        assert self.process
        os.killpg(self.process.pid, number)
        return time.monotonic()

    def _lines(self, paths: set[Path] | None = None) -> Iterator[dict[str, Any]]:
        for path in self.traces() if paths is None else paths:
            for line in path.read_text().splitlines():
                if line.endswith("}"):  # a killed process may leave half of one
                    yield json.loads(line)

    def fed(self) -> Fed:
        return Fed(self._lines())

    def row(self, stage: str) -> dict[str, Any]:
        """A stage's row in results.json."""
        rows = Storage(self.storage).at("faults").read_json("results.json")["stages"]
        return next(row for row in rows if row["name"] == stage)

    def last(self, stage: str) -> Checkpoint:
        """A stage's last checkpoint."""
        storage = Storage(self.storage).at("faults")
        trainer = storage.read_json("experiment.json")["stages"][stage]["trainer"]
        found = CheckpointStore(storage.at(f"{trainer}/checkpoints")).newest()
        assert found
        return found

    def checkpoints(self, stage: str) -> Path:
        experiment = json.loads((Path(self.storage) / "faults" / "experiment.json").read_text())
        return Path(self.storage) / "faults" / experiment["stages"][stage]["trainer"] / "checkpoints"


def same_batches(undisturbed: Run, run: Run) -> None:
    """Every step's ids are those of the undisturbed run, whichever rank was fed which."""
    expected, found = undisturbed.fed().batches(), run.fed().batches()
    assert len(expected.keys() - found.keys()) <= 1, "a step without a line of every rank"
    assert all(found[place] == expected[place] for place in found)


def same_as(undisturbed: Run, run: Run) -> None:
    """Every stage's weights, optimizer moments and examples, and every step's ids, are those of the undisturbed run."""
    same_batches(undisturbed, run)
    for stage in STAGES:
        one, other = undisturbed.last(stage), run.last(stage)
        assert one.state.seen == other.state.seen != ""
        assert one.state.position == other.state.position
        assert difference(one.weights, other.weights) == 0, stage
        assert difference(one.optimizer, other.optimizer) == 0, stage


def parents() -> dict[int, int]:
    """Process id -> its parent's, of all that run."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
    return found


def workers_of(process: int) -> list[int]:
    """The process ids of the Ray train workers that descend from that process."""
    found = parents()
    return sorted(child for child in found if _is_worker(child) and _descends(child, process, found))


def _is_worker(process: int) -> bool:
    try:
        return b"RayTrainWorker" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _descends(child: int, ancestor: int, found: dict[int, int]) -> bool:
    while child in found and child != ancestor:
        child = found[child]
    return child == ancestor
