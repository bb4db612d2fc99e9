"""Servers whose reads lag, which know conditional writes or do not, and credentials that expire (tests/schedules)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from multitask.errors import StorageError, UserError
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.fence import Superseded, check_writer
from multitask.experiment.lease import FILE, Lease, this_process
from multitask.storage import lag, retries
from multitask.storage.sealed import read_sealed, write_sealed
from multitask.storage.storage import Changed, Storage, Unconditional
from tests.schedules.bucket import MODES, Bucket, Rules, environment


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A sound server, which the environment and a file of credentials name."""
    server = Bucket(Rules())
    server.serve()
    give(tmp_path, "FIRST")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment(server.url), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(lag, "SECONDS", 3.0)
    monkeypatch.setattr(lag, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lag, "_written", {})
    S3FileSystem.clear_instance_cache()
    yield server
    S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def give(folder: Path, key: str) -> None:
    (folder / "keys").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n")


@pytest.fixture
def storage(bucket: Bucket) -> Storage:
    return Storage("s3://bucket/runs")


def lease(storage: Storage, machine: str = "") -> Lease:
    found = Lease(storage, lambda line: None, beat=0.1, watch=0.5, settle=0.1)
    found.holder = replace(found.holder, machine=machine or found.holder.machine)
    return found


@pytest.mark.slow
def test_what_was_just_written_is_waited_for(bucket: Bucket, storage: Storage) -> None:
    bucket.rules.lag = 1.0
    for at in range(5):
        storage.write_bytes(f"folder/{at}", b"%d" % at)
        assert storage.exists(f"folder/{at}") and storage.size(f"folder/{at}") == 1
        assert storage.read_bytes(f"folder/{at}") == b"%d" % at
        assert storage.list("folder") == [str(found) for found in range(at + 1)]
    assert bucket.counts["lagged"] > 5
    assert not storage.exists("folder/never"), "what nobody wrote is not waited for"


@pytest.mark.parametrize("mode", MODES)
def test_one_of_two_drivers_has_the_lease_in_each_way_that_servers_take_conditions(
    bucket: Bucket, storage: Storage, mode: str
) -> None:
    bucket.rules.conditions = mode
    with lease(storage) as first:
        time.sleep(0.3)
        assert storage.read_json(FILE)["beat"] > 0, "renewed"
        assert (first._version is not None) == (mode == "kept")
        with pytest.raises(UserError, match="another driver is at work on it, process"):
            lease(storage, "elsewhere").__enter__()
    assert not storage.exists(FILE)


def test_a_read_that_is_behind_gives_nobody_a_lease_that_another_holds(bucket: Bucket, storage: Storage) -> None:
    """The second sees no file, and then a dead driver's; its writes are refused until it sees the first."""
    dead = replace(this_process(), id="dead", born="1")
    storage.write_json(FILE, asdict(dead))
    with lease(storage, "here"):
        bucket.rules.lag = 1.0
        for _ in range(3):
            with pytest.raises(UserError, match=r"another driver (is at work|was started)"):
                lease(storage, "elsewhere").__enter__()


def test_a_lost_answer_to_taking_the_lease_is_no_other_driver(bucket: Bucket, storage: Storage) -> None:
    bucket.fault.kind, bucket.fault.share, bucket.fault.ways = "some", 0.5, ("lose the answer",)
    for _ in range(5):
        with lease(storage):
            pass
    assert bucket.counts["lose the answer"] > 3


def test_a_conditional_write_says_what_it_found(bucket: Bucket, storage: Storage) -> None:
    first = storage.replace("file", b"1", None)
    assert storage.read_version("file") == (b"1", first)
    second = storage.replace("file", b"2", first)
    for version in (None, first):
        with pytest.raises(Changed):
            storage.replace("file", b"3", version)
    with pytest.raises(Changed):
        storage.replace("absent", b"3", first)
    assert storage.read_version("file") == (b"2", second)
    for mode in ("not implemented", "refused"):
        bucket.rules.conditions = mode
        with pytest.raises(Unconditional):
            storage.replace("file", b"3", second)


@pytest.mark.slow
def test_the_fence_waits_for_an_attempt_that_is_not_seen_yet(bucket: Bucket, storage: Storage) -> None:
    bucket.rules.lag = 1.0
    for at in range(3):
        experiment = Experiment(storage, f"demo-{at}")
        experiment.begin_attempt()
        check_writer(experiment.folder, experiment.attempt, experiment.writer)
    assert bucket.counts["lagged"] > 0
    bucket.rules.lag = 0.0
    with pytest.raises(UserError, match="does not see what the driver wrote there"):
        check_writer(experiment.folder, 99, "nobody")
    with pytest.raises(Superseded):
        check_writer(experiment.folder, 1, "nobody")


def test_an_attempt_begins_on_the_newest_experiment_alone(storage: Storage) -> None:
    old, new = Experiment(storage, "demo"), Experiment(storage, "demo")
    new.begin_attempt()
    with pytest.raises(Changed):
        old.begin_attempt()
    assert Experiment(storage, "demo").attempt == 1


@pytest.mark.slow
@pytest.mark.parametrize("answer", [(400, "ExpiredToken"), (403, "ExpiredToken"), (401, "Unauthorized")])
def test_credentials_that_expire_are_looked_for_again(
    bucket: Bucket, storage: Storage, answer: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PATIENCE", 1.0)
    storage.write_bytes("file", b"1")
    bucket.rules.answer, bucket.rules.expired = answer, {"FIRST": 0.0}
    for call in (lambda: storage.exists("file"), lambda: storage.write_bytes("file", b"2")):
        with pytest.raises(StorageError, match="the credentials have expired: with new ones the same command goes on"):
            call()
    give(tmp_path, "SECOND")
    retries._failing_since.clear()  # as another run would begin
    assert storage.size("file") == 1, "asked by a HEAD, whose refusal says no reason"
    storage.write_bytes("file", b"2")
    assert storage.read_bytes("file") == b"2"


def test_where_deletes_are_denied_a_directory_is_written_over(bucket: Bucket, storage: Storage) -> None:
    bucket.rules.denied = ("DELETE",)
    storage.probe()
    for content in (b"1", b"22"):
        write_sealed(storage, "step", {"weights": content}, {})
        assert read_sealed(storage, "step") == {"weights": content}
    with pytest.raises(StorageError, match="cannot be removed: PermissionError"):
        storage.remove("step")
