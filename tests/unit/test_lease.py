from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from multitask.errors import UserError
from multitask.experiment.lease import FILE, Lease, this_process
from multitask.storage.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def lease(storage: Storage, told: list[str] | None = None, **seconds: float) -> Lease:
    told = [] if told is None else told
    return Lease(storage, told.append, **{"beat": 0.05, "watch": 1.0, "settle": 0.0, **seconds})


def born(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_second_driver_is_refused_while_the_first_is_at_work(storage: Storage) -> None:
    with lease(storage), pytest.raises(UserError, match=r"another driver is at work on it, process \d+ on "):
        lease(storage).__enter__()
    assert not storage.exists(FILE)
    with lease(storage):
        assert storage.exists(FILE)


def test_the_settling_time_is_used_and_the_last_to_write_in_it_has_the_lease(storage: Storage) -> None:
    seen: list[str] = []
    later = lease(storage)

    def work() -> None:
        seen.append(storage.read_json(FILE)["id"])
        later._write()
        time.sleep(0.2)

    earlier, began = Lease(storage, seen.append, beat=0.05, settle=0.2, meanwhile=work), time.monotonic()
    with pytest.raises(UserError, match="another driver was started at the same time"):
        earlier.__enter__()
    assert seen == [earlier.holder.id]
    assert time.monotonic() - began < 0.35, "working is settling too"


def test_a_driver_that_is_interrupted_while_its_lease_settles_leaves_none(storage: Storage) -> None:
    def interrupted() -> None:
        assert storage.exists(FILE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lease(storage, print, settle=0.0, meanwhile=interrupted).__enter__()
    assert not storage.exists(FILE)
    with lease(storage):
        with pytest.raises(UserError, match="another driver is at work"):
            lease(storage).__enter__()
        assert storage.exists(FILE), "another one's stays"


def test_a_driver_of_this_machine_that_was_killed_is_taken_over_at_once(
    storage: Storage, neighbour: subprocess.Popen[bytes]
) -> None:
    held = replace(this_process(), process=neighbour.pid, born=born(neighbour.pid))
    storage.write_json(FILE, asdict(held))
    with pytest.raises(UserError, match=f"process {neighbour.pid} on "):
        lease(storage).__enter__()
    neighbour.kill()
    neighbour.wait()
    told: list[str] = []
    with lease(storage, told):
        assert storage.read_json(FILE)["process"] != neighbour.pid
    assert told == []


def test_a_later_process_of_the_same_id_is_not_the_driver(storage: Storage, neighbour: subprocess.Popen[bytes]) -> None:
    held = replace(this_process(), process=neighbour.pid, born="1")
    storage.write_json(FILE, asdict(held))
    with lease(storage):
        pass


def test_a_driver_elsewhere_is_watched(storage: Storage) -> None:
    """Silent: it is taken over. Renewing its lease: refused, though its clock may say anything."""
    elsewhere = replace(this_process(), machine="another", host="far-away")
    storage.write_json(FILE, asdict(elsewhere))
    told: list[str] = []
    with lease(storage, told, watch=0.2):
        assert storage.read_json(FILE)["host"] != "far-away"
    assert "on far-away was at work on this experiment; waiting" in told[0]

    living = Lease(storage, told.append, beat=0.05, watch=1.0, settle=0.0)
    living.holder = elsewhere
    with living, pytest.raises(UserError, match="on far-away; stop that one"):
        lease(storage).__enter__()


def test_a_lease_that_another_driver_holds_now_is_left_alone(storage: Storage) -> None:
    with lease(storage, beat=60.0):
        storage.write_json(FILE, asdict(replace(this_process(), id="another")))
    assert storage.read_json(FILE)["id"] == "another"


def test_a_failing_storage_does_not_end_the_driver(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("slow down")

    held = lease(storage)
    with held:
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write_bytes", fail)
            time.sleep(0.2)
        assert "driver.json not renewed: slow down" in caplog.text
        before = storage.read_json(FILE)["beat"]
        time.sleep(0.2)
        assert storage.read_json(FILE)["beat"] > before


def test_a_file_of_another_form_counts_as_none(storage: Storage) -> None:
    storage.write_bytes(FILE, b'{"other": 1}')
    with lease(storage):
        pass


def test_of_two_that_start_together_one_is_refused(storage: Storage) -> None:
    first, second = lease(storage, settle=0.3), lease(storage)
    threading.Timer(0.1, second._write).start()  # it had looked before the first one wrote
    with pytest.raises(UserError, match="another driver was started at the same time"):
        first.__enter__()
    assert storage.read_json(FILE)["id"] == second.holder.id


def test_a_driver_whose_lease_was_taken_over_does_not_take_it_back(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    with lease(storage):
        storage.write_json(FILE, asdict(replace(this_process(), id="another", host="far-away")))
        time.sleep(0.2)
        assert storage.read_json(FILE)["id"] == "another"
    assert "on far-away drives now" in caplog.text
