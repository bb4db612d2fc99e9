"""All that a run reads and writes on S3 (moto's server), while requests fail (tests/s3.py)."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from s3fs import S3FileSystem
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.progress import Progress
from multitask.data.sample import sample_uri
from multitask.errors import StorageError
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore, Position, State
from multitask.storage import retries
from multitask.storage.sealed import is_sealed, read_sealed, write_sealed
from multitask.storage.storage import MANIFEST, Storage
from multitask.storage.uris import join
from tests.helpers import difference, newest, run, small_job
from tests.integration.test_experiment import minibert
from tests.s3 import S3

FILES = {"weights": bytes(range(200)) * 500, "state.json": b'{"steps": 3}', "empty": b""}


@pytest.fixture
def storage(s3: S3) -> Storage:
    return Storage(f"{s3.uri}/runs")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage is given up after a second, s3fs's own retries included."""
    monkeypatch.setattr(retries, "PATIENCE", 1.0)
    monkeypatch.setattr(S3FileSystem, "retries", 1)


def sample_on(s3: S3) -> str:
    """The sample data, copied to the bucket."""
    data = Storage(f"{s3.uri}/Daten für alle")
    for file in Path(sample_uri()).iterdir():
        data.write_bytes(file.name, file.read_bytes())
    return data.uri


def test_503_for_a_while_costs_that_while(s3: S3, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    storage.write_bytes("before", b"1")
    s3.fail("slow down", seconds=1)
    began = time.monotonic()
    assert storage.read_bytes("before") == b"1"
    assert time.monotonic() - began > 0.8
    assert s3.proxy.counts["SlowDown"] > 1


def test_one_request_in_three_failing_changes_nothing(s3: S3, storage: Storage) -> None:
    s3.fail("some", share=0.3, seed=1)
    failed = s3.proxy.failed()
    for at in range(3):
        write_sealed(storage, f"step-{at}", {**FILES, "at": bytes([at])}, {"schema": 1})
    assert storage.list() == ["step-0", "step-1", "step-2"]
    for at in range(3):
        assert read_sealed(storage, f"step-{at}") == {**FILES, "at": bytes([at])}
    storage.remove("step-1")
    assert s3.proxy.failed() - failed > 10
    s3.heal()
    assert storage.list() == ["step-0", "step-2"]


@pytest.mark.slow
def test_an_upload_in_parts_survives_failures(s3: S3, storage: Storage) -> None:
    """From 100 MiB on s3fs sends parts; an answer lost at the end is no NoSuchUpload."""
    s3.fail("some", share=0.2, seed=3)
    content = os.urandom(1 << 20) * 110
    write_sealed(storage, "step", {"weights": content}, {})
    assert read_sealed(storage, "step")["weights"] == content


@pytest.mark.usefixtures("impatient")
def test_writes_refused_for_good_are_said_once_and_harm_nothing(s3: S3, storage: Storage) -> None:
    write_sealed(storage, "step-1", FILES, {})
    s3.fail("refuse writes")
    requests = len(s3.proxy.seen)
    with pytest.raises(StorageError, match=r"runs/file: cannot be written: PermissionError: Access Denied"):
        storage.write_bytes("file", b"1")
    assert len(s3.proxy.seen) == requests + 1
    for path in ("step-1", "step-2"):
        with pytest.raises(StorageError, match="Access Denied"):
            write_sealed(storage, path, FILES, {})
    with pytest.raises(StorageError, match=r"cannot be removed: PermissionError: Access Denied"):
        storage.remove("step-1")
    assert not is_sealed(storage, "step-2")
    assert read_sealed(storage, "step-1") == FILES


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["slow down", "drop"])
def test_a_storage_that_stays_away_is_given_up(s3: S3, storage: Storage, kind: str) -> None:
    write_sealed(storage, "step-1", FILES, {})
    s3.fail(kind)
    with pytest.raises(StorageError, match="the storage has failed for 1 s or more"):
        write_sealed(storage, "step-1", FILES, {})
    s3.heal()
    assert read_sealed(storage, "step-1") == FILES


@pytest.mark.parametrize("damage", ["torn", "bit-flipped"])
def test_a_damaged_newest_checkpoint_is_passed_over(
    storage: Storage, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {"w": torch.arange(1000.0)}
    with CheckpointStore(storage.at("checkpoints")) as store:
        for steps in (5, 10):
            store.save(Checkpoint(State(Position(0, steps, steps)), weights, {}))
    step = storage.at("checkpoints/step-00000010")
    if damage == "torn":
        step.remove(MANIFEST)
    else:
        content = bytearray(step.read_bytes("weights.safetensors"))
        content[-1] ^= 1
        step.write_bytes("weights.safetensors", bytes(content))
    found = CheckpointStore(storage.at("checkpoints")).newest()
    assert found is not None and found.state.position.steps == 5
    assert torch.equal(found.weights["w"], weights["w"])
    assert "step-00000010" in caplog.text


def test_a_stage_on_a_failing_s3_equals_one_on_a_disk(s3: S3, tmp_path: Path) -> None:
    stage = {"checkpoint_steps": 2}
    here = small_job(tmp_path / "here", **stage)
    assert run(here)
    data = sample_on(s3)
    s3.fail("some", share=0.1, seed=2)
    failed = s3.proxy.failed()
    there = small_job(f"{s3.uri}/runs", data=data, **stage)
    assert run(there)
    assert s3.proxy.failed() - failed > 5
    s3.heal()
    for part in ("weights", "optimizer"):
        assert difference(getattr(newest(here), part), getattr(newest(there), part)) == 0
    assert without_events(here.folder) == without_events(there.folder)
    outcomes = [job.folder.read_json("outcome.json") for job in (here, there)]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]
    losses = [events(job.events).Scalars("train/loss") for job in (here, there)]
    assert [point.step for point in losses[0]] == [10]
    assert [point.value for point in losses[0]] == [point.value for point in losses[1]]


def without_events(folder: Storage) -> list[str]:
    return [name for name in folder.list() if "tfevents" not in name]


def events(folder: Storage) -> EventAccumulator:
    """What TensorBoard itself reads there: on S3 by boto3, at the endpoint that S3_ENDPOINT names."""
    found = EventAccumulator(folder.uri)
    found.Reload()
    return found


def test_training_does_not_wait_for_a_snapshot_in_flight(s3: S3) -> None:
    """The one after two steps hangs; the one due after four is passed over, the one at the end waits."""
    job = small_job(f"{s3.uri}/runs", epochs=1, checkpoint_steps=2)
    s3.fail("hang", pause=1.5, times=1, path="step-00000002")
    assert run(job)
    assert job.folder.list("checkpoints") == ["step-00000002", "step-00000005"]
    assert not any("step-00000004" in request for request in s3.proxy.seen)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_refused_checkpoint_ends_the_stage_and_it_goes_on_later(s3: S3, tmp_path: Path) -> None:
    stage = {"epochs": 4}
    job = small_job(f"{s3.uri}/runs", **stage)
    steps: list[int] = []

    def count(progress: Progress) -> bool:
        steps.extend([progress.done] if progress.doing == "step" else [])
        return False

    s3.fail("refuse writes", path="step-00000010")
    with pytest.raises(StorageError, match=r"step-00000010/.* cannot be written: .*Access Denied"):
        run(job, count)
    assert 10 <= len(steps) < 15, "the end comes with a next step, not with the next save"
    assert newest(job).state.position.steps == 5
    s3.heal()
    assert run(job)
    whole = small_job(tmp_path, **stage)
    assert run(whole)
    assert difference(newest(whole).weights, newest(job).weights) == 0


def test_events_that_cannot_be_copied_end_nothing(s3: S3, caplog: pytest.LogCaptureFixture) -> None:
    job = small_job(f"{s3.uri}/runs", epochs=1)
    s3.fail("refuse writes", path="tfevents")
    with caplog.at_level(logging.WARNING):
        assert run(job)
    assert "TensorBoard events not copied" in caplog.text
    assert job.folder.exists("outcome.json")


@pytest.mark.slow
def test_the_whole_way_on_s3(s3: S3, capsys: pytest.CaptureFixture[str]) -> None:
    """Train, look at it with TensorBoard's reader, report, evaluate, predict: nothing of it on this machine."""
    data, runs = sample_on(s3), f"{s3.uri}/runs"
    s3.fail("some", share=0.1, seed=4)
    small = ["--set", "defaults.epochs=1", "--set", "defaults.max_examples=100"]
    command = [sys.executable, "-m", "ray_jobs", "train", "demo", "--data", data, "--storage", runs, *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    home = join(runs, "demo")
    assert f"report:      minibert report {home}" in done.stdout
    s3.heal()
    last = Storage(home).read_json("results.json")["stages"][-1]
    assert last["status"] == "finished"

    (point,) = [
        point
        for point in events(Storage(home).at(f"{last['trainer']}/sst seed=11711")).Scalars("dev/sts/pearson")
        if point.step
    ]
    assert point.value == pytest.approx(last["metrics"]["sts/pearson"])

    assert minibert("report", home) == 0
    assert "sst" in Storage(home).read_bytes("report.md").decode()
    capsys.readouterr()
    assert minibert("evaluate", join(home, last["bundle"]), "--data", data, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall/mean"] == pytest.approx(last["metrics"]["overall/mean"], abs=1e-6)
    assert minibert("predict", join(home, last["bundle"]), "--data", data, "--output", f"{s3.uri}/predicted") == 0
    assert len(Storage(f"{s3.uri}/predicted/predictions").list()) == 6


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "path", ["", *(pytest.param(path, marks=pytest.mark.slow) for path in ("step-", "results.json"))]
)
def test_refused_writes_end_the_command_with_one_line(s3: S3, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--storage", f"{s3.uri}/runs", "--set", "defaults.epochs=1", "--set", "defaults.max_examples=40"]
    s3.fail("refuse writes", path=path)
    assert minibert("train", "demo", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("minibert: s3://") and "Access Denied" in error
    s3.heal()
    if path:
        assert minibert("train", "demo", *words) == 0
