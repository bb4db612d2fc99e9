"""The enumerator itself, what it says of the storage's own writes, and a share of its states for each commit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from multitask.storage.disk import make_folder
from multitask.storage.sealed import Damaged, read_sealed, write_sealed
from multitask.storage.storage import Storage
from ray_jobs.bundles.output import draft, publish
from tests.crashpoints.bucket import Change, Changes, Left
from tests.crashpoints.disk import Log, State
from tests.crashpoints.runs import chosen
from tests.crashpoints.trace import traced
from tests.faults.rows import ROOT


def left(work: Callable[[Path], None], folder: Path) -> tuple[Log, list[dict[str, bytes]]]:
    """The log of `work` in a folder, and what each crash leaves there: path -> content."""
    place = folder / "place"
    place.mkdir()
    log = traced(lambda: work(place), place, folder)
    return log, [contents(log, state) for state in log.states(random.Random(0))]


def contents(log: Log, state: State) -> dict[str, bytes]:
    return {path: log.content(state, inode) for path, inode in log.tree(state)[1].items()}


def careless(place: Path) -> None:
    """What `outcome` stands for is not on the disk when `outcome` is."""
    (place / "bundle").mkdir()
    (place / "bundle" / "weights").write_bytes(b"weights!")
    with open(place / "draft", "wb") as file:
        file.write(b"done")
        file.flush()
        os.fsync(file.fileno())
    os.replace(place / "draft", place / "outcome")


def test_a_careless_order_of_writes_is_found_out(tmp_path: Path) -> None:
    log, found = left(careless, tmp_path)
    assert log.names == [
        "make bundle/",
        "create bundle/weights",
        "write 8 bytes to bundle/weights",
        "create draft",
        "write 4 bytes to draft",
        "fsync draft",
        "rename draft to outcome",
    ]
    with_outcome = [files for files in found if "outcome" in files]
    assert all(files["outcome"] == b"done" for files in with_outcome), "its content was synced"
    assert {files.get("bundle/weights") for files in with_outcome} == {b"weights!", b"", b"weig", bytes(8), None}


def test_a_synced_directory_keeps_its_names(tmp_path: Path) -> None:
    def careful(place: Path) -> None:
        (place / "old").write_bytes(b"1")
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.rename(place / "old", place / "new")
        os.fsync(descriptor)
        (place / "new").unlink()

    log, found = left(careful, tmp_path)
    synced = log.names.index("rename old to new") + 2
    assert log.loose(synced) == [] and log.loose(synced + 1) == [synced]
    assert sorted({tuple(files) for files in found}) == [(), ("new",), ("old",)]


def test_a_directory_is_not_gone_while_something_in_it_is_not(tmp_path: Path) -> None:
    def work(place: Path) -> None:
        (place / "folder").mkdir()
        (place / "folder" / "file").touch()
        for folder in (place, place / "folder"):
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        (place / "folder" / "file").unlink()
        (place / "folder").rmdir()

    log, _ = left(work, tmp_path)
    file, folder = log.names.index("remove folder/file"), log.names.index("remove folder")
    undone = [state.undone for state in log.candidates(random.Random(0)) if state.after > folder]
    assert {file, folder} in undone and {folder} in undone and {file} not in undone


def test_documents_are_on_the_disk_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """Failing without the directories' fsync: the second survives a power loss that the first does not."""

    def work(place: Path) -> None:
        storage = Storage(str(place))
        storage.write_bytes("deep/below/first", b"1")
        storage.write_bytes("second", b"2")

    _, found = left(work, tmp_path)
    assert any("second" in files for files in found)
    assert all(files.get("deep/below/first") == b"1" for files in found if "second" in files)


def test_a_sealed_directory_is_whole_before_what_speaks_of_it(tmp_path: Path) -> None:
    """Failing without the directories' fsync: outcome.json survives a power loss that its bundle does not."""

    def work(place: Path) -> None:
        storage = Storage(str(place))
        files = {"weights.safetensors": {"w": torch.ones(3)}, "model.json": b"{}"}
        write_sealed(storage, "stage/bundle", files, {"schema": 1})
        storage.write_bytes("stage/outcome.json", b"{}")

    log, _ = left(work, tmp_path)
    outcomes = whole = 0
    for number, state in enumerate(log.states(random.Random(0))):
        folder = tmp_path / str(number)
        folder.mkdir()
        log.build(state, folder)
        outcomes += (folder / "stage" / "outcome.json").exists()
        try:
            read_sealed(Storage(str(folder)), "stage/bundle")
            whole += (folder / "stage" / "outcome.json").exists()
        except Damaged:
            continue
    assert whole == outcomes > 0


def test_an_export_is_there_whole_or_not_at_all_after_a_power_loss(tmp_path: Path) -> None:
    """Failing without the directories' fsync: the directory is there, and some of its files are not."""

    def work(place: Path) -> None:
        target = Storage(str(place / "model"))
        with draft(target) as folder:
            (folder / "1_Pooling").mkdir()
            (folder / "1_Pooling" / "config.json").write_bytes(b"pooling")
            (folder / "config.json").write_bytes(b"config")
            publish(folder, target, "config.json", "config.json")

    _, found = left(work, tmp_path)
    published = [{path: data for path, data in files.items() if path.startswith("model/")} for files in found]
    whole = {"model/config.json": b"config", "model/1_Pooling/config.json": b"pooling"}
    assert {len(files) for files in published} == {0, 2}
    assert all(files in ({}, whole) for files in published)


def test_states_of_a_bucket(tmp_path: Path) -> None:
    changes = [
        Change("put", "a", b"1"),
        Change("begin", "b", upload="7"),
        Change("part", "", b"2", "7", 1),
        Change("put", "b", b"2"),
        Change("end", "", upload="7"),
        Change("delete", "a"),
    ]
    log = Changes({"old": b"0"}, changes)
    assert [log.objects(after) for after in (1, 4, 6)] == [
        {"old": b"0", "a": b"1"},
        {"old": b"0", "a": b"1", "b": b"2"},
        {"old": b"0", "b": b"2"},
    ]
    assert log.uploads(3) == {"7": ("b", {1: b"2"})} and log.uploads(5) == {}
    states = list(log.states(random.Random(0)))
    assert [state.after for state in states if state.kind == "cut off"] == list(range(7))
    assert Left("lagging", 6, 1) in states and Left("lagging", 3, 1) not in states, "a part is in no listing"


def made_again(place: Path) -> None:
    """A directory is removed with what is in it, and made again; each name is on the disk then."""
    make_folder(place / "step")
    (place / "step" / "torn").write_bytes(b"torn")
    (place / "step" / "torn").unlink()
    (place / "step").rmdir()
    make_folder(place / "step")
    Storage(str(place / "step")).write_bytes("whole", b"whole")
    (place / "later").write_bytes(b"")


def test_a_removal_that_is_on_the_disk_takes_its_entries_along(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    log = traced(lambda: made_again(place), place, tmp_path)
    assert [log.names[number] for number in log.loose(len(log.operations))] == ["create later"]


def test_as_many_states_of_either_kind_are_chosen_where_there_are() -> None:
    states = [State("kill", after) for after in range(10)] + [State("power", after) for after in range(3)]
    picked = chosen(states, 8, random.Random(0))
    assert [sum(state.kind == kind for state in picked) for kind in ("kill", "power")] == [5, 3]
    assert len(set(picked)) == 8 and len(chosen(states, 50, random.Random(0))) == 13


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_share_of_the_states_drawn_by_the_commit_is_gone_on_from() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.crashpoints", "--drawn"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and ", 0 wrong, " in done.stdout, done.stdout + done.stderr
