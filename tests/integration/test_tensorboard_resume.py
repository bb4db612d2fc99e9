"""A stage that was killed and goes on: TensorBoard shows each point once, whichever of its loaders reads them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator

from lightning_modules import callbacks, tensorboard
from lightning_modules.progress import Progress
from lightning_modules.tensorboard import EventLog
from multitask.experiment.stage_job import StageJob
from multitask.storage import storage
from multitask.storage.storage import Storage
from tests.helpers import run, small_job, stop_at
from tests.s3 import S3

STAGE = {"epochs": 6, "checkpoint_steps": 4}  # five steps an epoch


def scalars(uri: str) -> dict[str, list[int]]:
    """Tag -> the steps at which scripts find a scalar. This loader never hides a text or a curve."""
    found = EventAccumulator(uri)
    found.Reload()
    return {tag: [point.step for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def shown(uri: str) -> dict[str, list[int]]:
    """Tag -> the steps at which TensorBoard's pages show a point, a text or a curve."""
    found = PluginAccumulator(uri)
    found.Reload()
    return {tag: [point.step for point in found.Tensors(tag)] for tag in found.Tags()["tensors"]}


def killed(job: StageJob, step: int) -> None:
    """As by SIGKILL amid an epoch: what was told until now lies in the storage, the checkpoint is an older one."""

    class Killed(BaseException):
        pass

    def die(progress: Progress) -> bool:
        if stop_at(step)(progress):
            raise Killed
        return False

    with pytest.raises(Killed):
        run(job, die)


@pytest.mark.parametrize("remote", [False, True], ids=["local", "s3"])
def test_points_are_shown_once_after_resumes(tmp_path: Path, s3: S3, remote: bool) -> None:
    whole, parts = small_job(tmp_path / "whole", **STAGE), small_job(s3.uri if remote else tmp_path / "parts", **STAGE)
    assert run(whole)
    killed(parts, 2)  # before any checkpoint: it begins anew
    killed(parts, 11)  # a step beyond the end of an epoch, and beyond a logged one
    assert not run(parts, stop_at(18))  # saved there
    assert run(parts)
    undisturbed = scalars(whole.events.uri)
    assert undisturbed["train/loss"] == [10, 20, 30] and undisturbed["dev/sst/accuracy"] == [5, 10, 15, 20, 25, 30]
    assert scalars(parts.events.uri) == undisturbed
    assert shown(parts.events.uri) == shown(whole.events.uri)
    assert shown(whole.events.uri).items() >= undisturbed.items()


def values(uri: str) -> dict[str, list[tuple[int, float]]]:
    """Tag -> steps and values; of what is a measure of time, the steps alone."""
    found = EventAccumulator(uri)
    found.Reload()
    timed = "train/examples_per_second"
    return {
        tag: [(point.step, 0.0 if tag == timed else point.value) for point in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def copied(file: str, to: str) -> None:
    """Copies a file, if it is still there: another thread may have given its draft the final name meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copy2(file, to)


def states_of(job: StageJob, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs the job; a copy of its storage as it stood after each write or removal, by whichever thread."""
    true, lock, states = storage.persist, threading.Lock(), list[Path]()

    def kept(fs: object, doing: str, where: str, call: Callable[[], Any]) -> Any:
        if doing not in ("written", "removed") or not where.startswith(job.owner.storage):
            return true(fs, doing, where, call)  # type: ignore[arg-type]
        with lock:
            given = true(fs, doing, where, call)  # type: ignore[arg-type]
            states.append(folder / f"{len(states):03d}")
            shutil.copytree(job.owner.storage, states[-1], copy_function=copied)
        return given

    with monkeypatch.context() as patch:
        patch.setattr(storage, "persist", kept)
        assert run(job)
    return states


@pytest.mark.parametrize("measure_start", [False, True])
def test_killed_after_any_write_the_curves_are_those_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure_start: bool
) -> None:
    monkeypatch.setattr(callbacks, "LOG_STEPS", 2)
    stage = {"epochs": 2, "checkpoint_steps": 3, "tasks": ["quora", "sst"], "max_examples": 64}
    job = replace(small_job(tmp_path / "whole", **stage), measure_start=measure_start)
    states = states_of(job, tmp_path / "states", monkeypatch)
    expected, pages = values(job.events.uri), shown(job.events.uri)
    assert [step for step, _ in expected["train/loss_sst"]] and len(expected["dev/sst/accuracy"]) == 2 + measure_start
    every = int(os.environ.get("MINIBERT_STATES", "9"))  # 1: all of them
    for at, state in list(enumerate(states))[int(measure_start) :: every]:
        resumed = replace(job, owner=replace(job.owner, storage=str(state)))
        assert run(resumed)
        assert values(resumed.events.uri) == expected, f"killed after write {at} of {len(states)}"
        assert shown(resumed.events.uri) == pages, f"killed after write {at} of {len(states)}"


def test_the_first_attempt_writes_the_mark(tmp_path: Path) -> None:
    log = EventLog(Storage(str(tmp_path)), purge=0)
    log.scalars({"loss": 1.0}, 0)
    log.close()
    (file,) = tmp_path.glob("events.out.tfevents*")
    loaded = EventAccumulator(str(file))
    marks = [event for event in loaded._generator.Load() if event.HasField("session_log")]
    assert [(mark.step, mark.session_log.status) for mark in marks] == [(0, 1)]  # START


def test_a_resume_where_the_clock_lags_is_read_behind_the_first_part(tmp_path: Path) -> None:
    for steps in ((1, 2), (2, 3)):
        log = EventLog(Storage(str(tmp_path)), purge=0 if steps[0] == 1 else 2)
        for step in steps:
            log.scalars({"loss": 1.0}, step)
        log.close()
        if steps[0] == 1:  # as of a machine whose clock is an hour ahead
            (file,) = tmp_path.glob("events*")
            second = file.name.split(".")[3]
            file.rename(tmp_path / file.name.replace(second, str(int(second) + 3600), 1))
    first, then = sorted(file.name for file in tmp_path.glob("events*"))
    assert int(then.split(".")[3]) == int(first.split(".")[3]) + 1
    assert shown(str(tmp_path))["loss"] == scalars(str(tmp_path))["loss"] == [1, 2, 3]


def test_a_dev_point_is_copied_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is gone the next moment takes no dev point with it, since none is told again."""
    monkeypatch.setattr(tensorboard, "COPY_SECONDS", 3600.0)
    log = EventLog(Storage(str(tmp_path)), purge=0)
    log.scalars({"dev/x": 1.0}, 5)
    log.copy()
    for _ in range(200):
        if (found := list(tmp_path.glob("events*"))) and scalars(str(tmp_path)).get("dev/x") == [5]:
            break
        log._thread.join(0.05)
    assert found and scalars(str(tmp_path))["dev/x"] == [5]
    log.close()


@contextmanager
def pages(logdir: Path, fast: bool) -> Iterator[str]:
    """TensorBoard itself, with the loader written in Rust or the one in Python; its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
    server = subprocess.Popen(
        [*command, "--load_fast", str(fast).lower()], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr
    try:
        yield next(found[0] for line in server.stderr if (found := re.search(r"http://\S+?/(?= )", line)))
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("fast", [True, False])
def test_its_pages_show_each_point_once(tmp_path: Path, fast: bool) -> None:
    job = small_job(tmp_path, **STAGE)
    killed(job, 11)
    killed(job, 17)
    assert run(job)
    with pages(Path(job.events.uri), fast) as address:
        for tag, steps in {"train/loss": [10, 20, 30], "dev/sst/accuracy": [5, 10, 15, 20, 25, 30]}.items():
            url = f"{address}data/plugin/scalars/scalars?{urlencode({'run': '.', 'tag': tag})}"
            assert [point[1] for point in fetched(url)] == steps, tag


def fetched(url: str) -> list[list[float]]:
    """The points, as soon as the server has read the files."""
    for _ in range(100):
        with suppress(HTTPError), urlopen(url) as answer:
            return json.load(answer)  # type: ignore[no-any-return]
        time.sleep(0.1)
    raise AssertionError(f"nothing at {url}")
