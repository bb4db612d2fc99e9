"""Storage: what is written is complete or absent, and what was altered since is found out."""

from __future__ import annotations

import errno
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.errors import StorageError, UserError
from multitask.storage.sealed import Damaged, is_sealed, read_sealed, write_document, write_sealed
from multitask.storage.storage import MANIFEST, Storage
from multitask.storage.uris import absolute, join, local_copy

FILES = {"weights": bytes(range(40)), "state.json": b'{"steps": 3}', "empty": b""}


def in_memory() -> Storage:
    return Storage(f"memory://storage-{uuid.uuid4().hex}/runs")


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3").uri + "/runs")
    return Storage(str(tmp_path / "runs")) if request.param == "local" else in_memory()


NAMES = ["plain.bin", "Grüße, Welt.csv", "a+b c%20d&e=f.json", "日本語/文.txt", "#1?.tsv"]


def test_any_name_will_do(storage: Storage) -> None:
    for name in NAMES:
        storage.write_bytes(f"data/{name}", name.encode())
    assert storage.list("data") == sorted(name.partition("/")[0] for name in NAMES)
    for name in NAMES:
        assert storage.exists(f"data/{name}") and not storage.exists(f"data/{name}x")
        assert storage.read_bytes(f"data/{name}") == name.encode()
        storage.remove(f"data/{name}")
        assert not storage.exists(f"data/{name}")


def test_what_others_write_and_remove_is_seen_at_once(storage: Storage) -> None:
    """No listing is cached: another process writes here too."""
    storage.write_bytes("step-1/a", b"1")
    assert storage.list() == ["step-1"] and not storage.exists("step-2")
    other = Storage(storage.uri)
    other.fs = type(storage.fs)(skip_instance_cache=True)
    other.write_bytes("step-2/a", b"2")
    assert storage.list() == ["step-1", "step-2"] and storage.exists("step-2")
    other.remove("step-1")
    assert storage.list() == ["step-2"] and not storage.exists("step-1/a")


def test_what_is_written_is_read_and_listed(storage: Storage) -> None:
    storage.write_bytes("a/b/one.bin", b"\0one")
    storage.write_json("a/two.json", {"lr": 1e-5})
    assert storage.read_bytes("a/b/one.bin") == b"\0one"
    assert storage.at("a").read_json("two.json") == {"lr": 1e-5}
    assert storage.list("a") == ["b", "two.json"]
    assert storage.list() == ["a"]
    assert storage.exists("a/b")
    with local_copy(join(storage.uri, "a", "b", "one.bin")) as file:
        assert file.read_bytes() == b"\0one"


def test_a_local_file_is_written_whole(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"\0one")
    storage.write_file("a/b/one.bin", tmp_path / "content")
    assert storage.read_bytes("a/b/one.bin") == b"\0one"
    assert storage.list("a/b") == ["one.bin"]


def test_a_second_write_replaces_the_first(storage: Storage) -> None:
    storage.write_bytes("file", b"a long first content")
    storage.write_bytes("file", b"second")
    assert storage.read_bytes("file") == b"second"
    assert storage.list() == ["file"]


def test_what_is_absent(storage: Storage) -> None:
    assert storage.list() == storage.list("nosuch/place") == []
    assert not storage.exists("nosuch")
    storage.remove("nosuch")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("nosuch")


def test_remove_takes_all_below_and_nothing_beside(storage: Storage) -> None:
    for path in ("step-1/a", "step-1/deep/b", "step-10/a"):
        storage.write_bytes(path, b"x")
    storage.remove("step-1")
    assert storage.list() == ["step-10"]
    storage.remove("step-10/a")
    assert not storage.exists("step-10/a")


def test_json_has_no_nan(storage: Storage) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json("results.json", {"loss": float("nan")})
    assert not storage.exists("results.json")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("results.json", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match=r"results.json: cannot be written: .*No space left.*: free some"):
        storage.write_bytes("results.json", b"new")
    assert storage.read_bytes("results.json") == b"old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_storage_crosses_to_another_process(storage: Storage) -> None:
    storage.write_bytes("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("a") == b"1"


def test_a_local_path_is_made_absolute_and_an_uri_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute("./runs") == str(tmp_path / "runs")
    assert absolute("~/runs") == str(tmp_path / "home" / "runs")
    assert absolute("s3://bucket/runs") == "s3://bucket/runs"
    assert Storage(f"file://{tmp_path}").is_local


def test_an_unknown_protocol_is_the_users_to_mend() -> None:
    with pytest.raises(UserError, match=r"storage 'nosuch://here'"):
        Storage("nosuch://here")


def test_a_remote_file_has_a_local_copy(storage: Storage) -> None:
    storage.write_bytes("cache/abc.bin", b"content")
    copy = storage.local_file("cache/abc.bin")
    assert copy.read_bytes() == b"content"
    assert storage.local_file("cache/abc.bin") == copy


def test_a_sealed_directory_comes_back(storage: Storage) -> None:
    assert not is_sealed(storage, "step")
    write_sealed(storage, "step", FILES, {"schema": 1})
    assert is_sealed(storage, "step")
    assert read_sealed(storage, "step") == read_sealed(storage.at("step")) == FILES
    assert storage.read_json(f"step/{MANIFEST}")["schema"] == 1


def test_sealing_again_leaves_nothing_of_the_first(storage: Storage) -> None:
    write_sealed(storage, "step", FILES, {})
    write_sealed(storage, "step", {"other": b"1"}, {})
    assert storage.list("step") == [MANIFEST, "other"]


class Torn(dict[str, bytes]):
    """Files of which the second cannot be had."""

    def items(self) -> Any:
        yield "weights", b"new"
        raise OSError("connection lost")


def test_what_stops_before_the_manifest_is_not_sealed(storage: Storage) -> None:
    write_sealed(storage, "step", FILES, {})
    with pytest.raises(OSError, match="connection lost"):
        write_sealed(storage, "step", Torn(FILES), {})
    assert not is_sealed(storage, "step")
    with pytest.raises(Damaged):
        read_sealed(storage, "step")


DAMAGE: dict[str, Callable[[Storage], None]] = {
    MANIFEST: lambda step: step.remove(MANIFEST),
    "weights": lambda step: step.remove("weights"),
    "empty": lambda step: step.write_bytes("empty", b"\0"),
    "weights: 39 bytes": lambda step: step.write_bytes("weights", FILES["weights"][:-1]),
    "weights: 41 bytes": lambda step: step.write_bytes("weights", FILES["weights"] + b"\0"),
    "manifest.json: damaged: its content is not": lambda step: step.write_bytes(
        MANIFEST, step.read_bytes(MANIFEST)[:-20]
    ),
    "manifest.json: damaged: 0 bytes that begin": lambda step: step.write_bytes(MANIFEST, b""),
    "manifest.json: damaged: 'utf-8' codec": lambda step: step.write_bytes(MANIFEST, b'{"files": "\xff"}'),
    "manifest.json: damaged: 2 bytes that begin": lambda step: step.write_bytes(MANIFEST, b"[]"),
    "step: damaged: KeyError": lambda step: write_document(step, MANIFEST, {"schema": 1}),
    "no mapping of files": lambda step: write_document(step, MANIFEST, {"files": 3}),
    "names '../weights'": lambda step: names(step, "../weights"),
    "names '/etc/passwd'": lambda step: names(step, "/etc/passwd"),
    "names 'a\\\\b'": lambda step: names(step, "a\\b"),
    "names '.hidden'": lambda step: names(step, ".hidden"),
    "names ''": lambda step: names(step, ""),
    "names 'a\\x00'": lambda step: names(step, "a\0"),
    "names 'nnnn": lambda step: names(step, "n" * 200),
    "10000000 bytes, at most": lambda step: step.write_bytes(MANIFEST, b" " * 10_000_000),
    "manifest.json: damaged: maximum recursion": lambda step: step.write_bytes(
        MANIFEST, b'{"files": ' + b"[" * 100_000
    ),
    "manifest.json: damaged: Exceeds the limit": lambda step: step.write_bytes(
        MANIFEST, b'{"files": 1' + b"0" * 5000 + b"}"
    ),
}


def names(step: Storage, name: str) -> None:
    """A manifest whose only file has that name, with the true checksum of the one it means."""
    entry = step.read_json(MANIFEST)["files"]["weights"]
    write_document(step, MANIFEST, {"files": {name: entry}})


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(tmp_path: Path, what: str) -> None:
    storage = Storage(str(tmp_path))
    write_sealed(storage, "step", FILES, {})
    DAMAGE[what](storage.at("step"))
    with pytest.raises(Damaged) as caught:
        read_sealed(storage, "step")
    assert what in str(caught.value)
    assert storage.at("step").uri in str(caught.value)


@settings(max_examples=50)
@given(st.data())
def test_a_change_of_any_byte_is_found_out(data: st.DataObject) -> None:
    files = data.draw(st.dictionaries(st.sampled_from(["weights", "state.json"]), st.binary(min_size=1), min_size=1))
    storage = in_memory()
    write_sealed(storage, "step", files, {})
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    storage.write_bytes(f"step/{name}", bytes(content))
    with pytest.raises(Damaged, match=f"step/{name}"):
        read_sealed(storage, "step")


@settings(max_examples=50)
@given(st.data())
def test_a_change_of_any_bit_of_a_manifest_is_found_out(data: st.DataObject) -> None:
    storage = in_memory()
    write_sealed(storage, "step", FILES, {"schema": 1})
    manifest = bytearray(storage.read_bytes(f"step/{MANIFEST}"))
    manifest[data.draw(st.integers(0, len(manifest) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    storage.write_bytes(f"step/{MANIFEST}", bytes(manifest))
    with pytest.raises(Damaged, match=f"step/{MANIFEST}: damaged"):
        read_sealed(storage, "step")


def test_what_a_build_before_the_seals_wrote_is_read(storage: Storage) -> None:
    write_sealed(storage, "step", FILES, {"schema": 1})
    manifest = {"schema": 1, "files": storage.read_json(f"step/{MANIFEST}")["files"]}
    storage.write_json(f"step/{MANIFEST}", manifest)
    assert read_sealed(storage, "step") == FILES


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/x", "https://me:secret@host/x.csv", "s3://:secret@b"])
def test_a_password_in_a_uri_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(UserError, match="credentials come from the environment") as caught:
        Storage(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["~nobody-of-that-name/x", "a\0b"])
def test_a_path_that_can_be_none_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="path "):
        Storage(uri)


def test_a_file_is_no_storage(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x")
    with pytest.raises(UserError, match=r"^'.*notes': a file; valid: a folder, there or not yet, or a URI"):
        Storage(str(tmp_path / "notes")).probe()
    assert (tmp_path / "notes").read_text() == "x"
