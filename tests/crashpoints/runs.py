"""Runs in children of one warm process: the undisturbed ones, and those that go on from a state."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pickle
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.crashpoints.bucket import URI, recorded
from tests.crashpoints.jobs import Job, command, jobs, prepare_process, write_inputs
from tests.crashpoints.trace import traced

CHILDREN = 2
PR_SET_PDEATHSIG = 1  # of linux/prctl.h: a child does not outlive this process
LIMIT = 180.0  # seconds until a run that goes on counts as hanging
HALVES = (("kill", "power"), ("cut off", "lagging"))  # as many states of the one as of the other, where there are
TWICE, TWICE_SHARE = "train, gone on from a power loss", 0.1  # the run that goes on crashes, too
ON_S3 = {"train": 0.04, "sweep": 0.02, "predict": 0.015, "export": 0.015, "embed": 0.015, "index": 0.015}

WARM = (
    *("moto.s3.responses", "moto.server", "pyarrow.parquet", "pytorch_lightning", "s3fs", "torch.utils.tensorboard"),
    *("lightning_modules.run", "lightning_modules.summary", "ray_jobs.batch.table_job", "ray_jobs.bundles.scoring"),
    *(
        "ray_jobs.cli.program",
        "ray_jobs.driver.driver",
        "ray_jobs.bundles.export",
        "ray_jobs.runners.local",
        "ray_jobs.recruit.search",
    ),
    "ray_jobs.driver.telling",
)


@dataclass
class Tried:
    """A job with its log (of a disk or of a bucket), what has to come of it, and the states that are tried.

    wrong: by the state's number, what its run said. seconds: of all its runs.
    """

    name: str
    job: Job
    log: Any
    expected: dict[str, str]
    states: list[Any]
    wrong: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0


def warm_up() -> None:
    """Imports what the commands need, so that a child starts at once; nothing is computed and no thread started."""
    for name in WARM:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def forked(work: Callable[[], None], output: Path) -> int:
    """Starts `work` in a child whose output goes to that file; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _write_to(output)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _write_to(output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))


def finish(child: int, output: Path) -> None:
    if os.waitpid(child, 0)[1]:
        sys.exit(f"crashpoints: a run that nothing disturbs failed:\n{output.read_text()}")


def undisturbed(folder: Path, seed: int | str, states: int, name: str = "") -> Iterator[Tried]:
    """Each job, or the one of that name, with its states."""
    inputs, scratch = folder / "inputs", folder / "undisturbed"
    write_inputs(inputs)
    for known, job in jobs(inputs).items():
        if name in ("", known):
            yield _tried(known, job, states * job.share, seed, *_on_disk(job, scratch))
    if name in ("", TWICE):
        job = jobs(inputs)["train"]
        first = _tried("train", job, states * job.share, seed, *_on_disk(job, scratch))
        powers = [state for state in first.states if state.kind == "power"]
        log, expected = _on_disk(job, scratch, partial(first.log.build, powers[len(powers) // 2]))
        assert expected == first.expected
        yield _tried(TWICE, job, states * TWICE_SHARE, seed, log, expected)
    for known, share in ON_S3.items():
        if name in ("", f"{known} on S3"):
            job = jobs(inputs, URI)[known]
            yield _tried(f"{known} on S3", job, states * share, seed, *_on_s3(job, scratch))


def _tried(name: str, job: Job, count: float, seed: int | str, log: Any, expected: dict[str, str]) -> Tried:
    dice = random.Random(f"{seed} {name}")
    return Tried(name, job, log, expected, chosen(list(log.states(dice)), max(1, round(count)), dice))


def chosen(states: list[Any], count: int, dice: random.Random) -> list[Any]:
    """That many of them, or all; half of each kind, where there are as many."""
    one, other = next(pair for pair in HALVES if states[0].kind in pair)
    first, second = ([state for state in states if state.kind == kind] for kind in (one, other))
    many = min(len(second), max(round(count / 2), count - len(first)))
    picked = dice.sample(first, min(len(first), count - many)) + dice.sample(second, many)
    return sorted(picked, key=lambda state: (state.after, state.kind))


def _done(words: list[str], place: Path) -> None:
    if status := command(words, place):
        raise RuntimeError(f"{words}: exit status {status}")


def _places(folder: Path) -> tuple[Path, Path, Path]:
    """An empty folder's place of the storage, its file of what is printed, and its file of what is to come."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "place").mkdir(parents=True)
    return folder / "place", folder / "output", folder / "expected.json"


def _prepare(job: Job, folder: Path) -> None:
    """Gives the commands whose work lies there before the job's own."""
    prepare_process(folder / "tmp")
    for words in job.before:
        _done(words, folder / "place")


def _on_disk(job: Job, folder: Path, lay: Callable[[Path], Any] | None = None) -> tuple[Any, dict[str, str]]:
    """The job's log, and what came of it. lay: lays out what is there before, where that is not what commands made."""
    place, output, told = _places(folder)
    prepare = partial(_prepare, job, folder)

    def work() -> None:
        _write_to(output)
        prepare_process(folder / "tmp")
        _done(job.command, place)

    def tell() -> None:
        os.chdir(place)
        told.write_text(json.dumps(job.results()))

    if lay:
        lay(place)
    else:
        finish(forked(prepare, output), output)
    log = traced(work, place, folder)
    finish(forked(tell, output), output)
    return log, json.loads(told.read_text())


def _on_s3(job: Job, folder: Path) -> tuple[Any, dict[str, str]]:
    place, output, told = _places(folder)
    prepare = partial(_prepare, job, folder)

    def work() -> None:
        _done(job.command, place)
        told.write_text(json.dumps(job.results()))

    finish(forked(partial(recorded, prepare, work, folder / "log"), output), output)
    return pickle.loads((folder / "log").read_bytes()), json.loads(told.read_text())


def go_on(tried: Tried, state: Any, folder: Path) -> None:
    """In a child: the command again on that state; raises where it is not what it would have been."""
    place = folder / "place"
    place.mkdir(parents=True)
    prepare_process(folder / "tmp")
    settle = tried.log.build(state, place)
    status = command(tried.job.command, place)
    settle()
    found = tried.job.results()
    for key in sorted({*found, *tried.expected}):
        if found.get(key) != tried.expected.get(key):
            print(f"{key}:\n  is        {found.get(key, 'missing')}\n  should be {tried.expected.get(key, 'missing')}")
    if found != tried.expected or status not in (0, 2):  # 2: what it would make is there already
        raise AssertionError(f"exit status {status}, not what it would have been")


class Runner:
    """Some children at a time. logs: a folder for what the runs of wrong states said."""

    def __init__(self, folder: Path, logs: Path | None) -> None:
        self.folder, self.logs, self.done = folder, logs, 0
        self._running: dict[int, tuple[Tried, int, Path, float]] = {}

    def run(self, tried: Tried, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._reap(CHILDREN - 1)
            folder = self.folder / f"state-{self.done}-{number}"
            folder.mkdir()
            child = forked(partial(go_on, tried, tried.states[number], folder), folder / "output")
            self._running[child] = (tried, number, folder, time.monotonic())
        self._reap(0)

    def _reap(self, most: int) -> None:
        """Until so many run; those that hang are ended."""
        while len(self._running) > most:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child:
                self._ended(child, status)
                continue
            for process, (*_, since) in self._running.items():
                if time.monotonic() - since > LIMIT:
                    os.killpg(process, signal.SIGKILL)
            time.sleep(0.01)

    def _ended(self, child: int, status: int) -> None:
        tried, number, folder, since = self._running.pop(child)
        tried.seconds += time.monotonic() - since
        self.done += 1
        if status:
            told = tried.log.told(tried.states[number])
            tried.wrong[number] = (folder / "output").read_text(errors="replace")
            print(f"WRONG {tried.name}:{number}: {told}\n{tried.wrong[number][-2000:]}", flush=True)
            if self.logs:
                self.logs.mkdir(parents=True, exist_ok=True)
                file = self.logs / f"{tried.name.replace(' ', '-')}-{number}.log"
                file.write_text(f"{told}\n{tried.wrong[number]}")
        shutil.rmtree(folder, ignore_errors=True)
