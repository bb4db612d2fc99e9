"""What dead processes have left: what is removed by the next run, what stays, and what the doctor says of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from multitask.experiment.fence import EXPERIMENT_FILE
from multitask.experiment.lease import FILE, this_process
from multitask.storage.owners import born, draft_of, is_dead, kept_in, tag
from multitask.storage.sealed import write_document
from multitask.storage.storage import Storage
from ray_jobs.doctor.litter import HOUR, UNUSED, check_litter
from tests.s3 import S3


@pytest.fixture
def neighbour() -> Iterator[int]:
    """The id of a process of this machine that lives."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def of(name: str, process: int, since: str | None = None) -> str:
    """The name as that process would have made it."""
    machine = tag().partition("-")[0]
    return name.replace(tag(), f"{machine}-{process}-{since or born(process)}")


def written(path: Path, age: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"0123456789")
    os.utime(path, (time.time() - age,) * 2)
    return path


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_removes_what_its_dead_processes_have_left_and_nothing_else(
    tmp_path: Path, temporary: Path, neighbour: int
) -> None:
    storage, draft, upload = tmp_path / "runs", draft_of("weights"), kept_in("upload")
    elsewhere = draft.replace(tag().partition("-")[0], "0" * 12)
    dead, living = of(draft, neighbour, "1"), of(draft, neighbour)
    stays = [
        *("demo/TorchTrainer/checkpoints/step-1/weights", f"demo/{draft}", f"demo/{living}", f"demo/{elsewhere}"),
        *(f"other/{dead}", "demo/.weights.0123abcd.part"),
    ]
    for name in (*stays, f"demo/{dead}", f"demo/TorchTrainer/checkpoints/step-1/{dead}", f"cache/tokens/{dead}"):
        written(storage / name)
    for name in (of(upload, neighbour, "1"), of(upload, neighbour), upload, "minibert-upload-"):
        written(temporary / f"{name}x" / "file")
    Storage(str(storage)).clean("demo")
    assert below(storage) == sorted(stays)
    assert below(temporary) == sorted(f"{name}x/file" for name in (of(upload, neighbour), upload, "minibert-upload-"))


def test_another_users_are_left_alone(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = of(draft_of("weights"), os.getpid(), "1")
    written(tmp_path / "runs" / "demo" / name)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    Storage(str(tmp_path / "runs")).clean("demo")
    assert is_dead(name)
    assert below(tmp_path / "runs") == [f"demo/{name}"]


def test_what_was_written_to_try_a_storage_goes_too(s3: S3, neighbour: int) -> None:
    storage, probe = Storage(f"{s3.uri}/runs"), f".probe-{tag()}-0123abcd"
    for name in (probe, of(probe, neighbour, "1"), of(probe, neighbour), "kept"):
        storage.write_bytes(name, b"minibert")
    storage.clean("demo")
    assert storage.list() == sorted([probe, of(probe, neighbour), "kept"])


def test_the_doctor_lists_what_nothing_needs(tmp_path: Path, temporary: Path, neighbour: int) -> None:
    root = tmp_path / "runs"
    storage, day = Storage(str(root)), 25 * HOUR
    written(root / "demo" / of(draft_of("weights"), neighbour, "1"), day)
    written(root / "demo" / of(draft_of("weights"), neighbour))
    for name in ("old/weights.safetensors", "old/state.json"):
        written(root / "demo" / "T1" / "checkpoints" / name.replace("old", "step-00000010"), 3 * HOUR)
    written(root / "demo" / "T1" / "checkpoints" / "step-00000020" / "weights.safetensors")  # perhaps in the making
    for name in ("manifest.json", "weights.safetensors"):
        written(root / "demo" / "T1" / "bundle" / name, day)
    storage.write_json(f"demo/{FILE}", asdict(replace(this_process(), process=neighbour, born="1")))
    storage.write_json(f"other/{FILE}", asdict(replace(this_process(), process=neighbour, born=born(neighbour) or "")))
    written(root / "demo" / "T0" / "outcome.json", day)
    stages = {"sst": {"trainer": "T1"}}
    superseded = [{"stage": "sst", "trainer": "T0"}, {"stage": "sst", "trainer": "T1"}]
    write_document(storage, f"demo/{EXPERIMENT_FILE}", {"attempt": 1, "stages": stages, "superseded": superseded})
    written(root / "cache" / "tokens" / "old.safetensors", UNUSED + day)
    written(root / "cache" / "tokens" / "new.safetensors", day)
    written(temporary / f"{of(kept_in('ray'), neighbour, '1')}x" / "file")
    before = below(root)
    found = {finding.subject: finding.fact for finding in check_litter(storage)}
    assert list(found) == ["unfinished", "torn", "leases", "superseded", "caches", "temporary"]
    assert "1 files that were never finished, 10 B, the oldest 25 hours: demo/.weights." in found["unfinished"]
    assert "20 B, the oldest 3 hours: demo/T1/checkpoints/step-00000010; to remove one: rm -r" in found["torn"]
    assert f"the oldest new: demo/{FILE}; to remove one" in found["leases"]
    assert (
        "1 superseded trainers that no experiment refers to, 10 B, the oldest 25 hours: demo/T0;" in found["superseded"]
    )
    assert "1 caches not used for 30 days" in found["caches"] and "cache/tokens/old.safetensors" in found["caches"]
    assert below(root) == before, "nothing is removed"


def test_the_doctor_lists_uploads_that_were_never_completed(s3: S3) -> None:
    storage = Storage(f"{s3.uri}/runs")
    storage.write_bytes("kept", b"1")
    assert list(check_litter(storage)) == []
    bucket = s3.uri.removeprefix("s3://")
    made = storage.fs.call_s3("create_multipart_upload", Bucket=bucket, Key="runs/demo/weights.safetensors")
    (finding,) = check_litter(storage)
    assert finding.subject == "uploads"
    assert finding.fact.startswith(f"{storage.uri}: 1 uploads in parts that were never completed, the oldest ")
    assert finding.fact.endswith(f"--key runs/demo/weights.safetensors --upload-id {made['UploadId']}")


def test_the_doctor_looks_again_where_a_run_removes_files_meanwhile(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, fallible = Storage(str(tmp_path / "runs")), iter([FileNotFoundError("gone"), None])
    written(tmp_path / "runs" / "cache" / "tokens" / "old.safetensors", UNUSED + HOUR)
    (temporary / "minibert-gone").mkdir()
    find, lstat = storage.fs.find, Path.lstat

    def finding(*given: object, **named: object) -> object:
        if error := next(fallible):
            raise error
        return find(*given, **named)

    def looking(path: Path) -> os.stat_result:
        if path.name == "minibert-gone":
            raise FileNotFoundError(str(path))
        return lstat(path)

    monkeypatch.setattr(storage.fs, "find", finding)
    monkeypatch.setattr(Path, "lstat", looking)
    assert [found.subject for found in check_litter(storage)] == ["caches"]


def test_the_doctor_passes_over_a_damaged_experiment(tmp_path: Path, temporary: Path) -> None:
    written(tmp_path / "runs" / "demo" / EXPERIMENT_FILE)
    assert list(check_litter(Storage(str(tmp_path / "runs")))) == []
