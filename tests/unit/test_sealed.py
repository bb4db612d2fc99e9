"""What is read back is checked: caches, features, documents, copies of remote files; none is believed as it lies."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.bundle.bundle import save_bundle
from multitask.data.readers import FileState
from multitask.data.shards import read_examples
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import StorageError, UserError
from multitask.recruit.postings import read_postings
from multitask.storage import disk, sealed
from multitask.storage import tensors as sealed_tensors
from multitask.storage.disk import private_folder
from multitask.storage.sealed import Damaged, read_document, read_sealed, write_document
from multitask.storage.storage import Storage
from multitask.storage.tensors import SealedTensors, open_tensors, write_tensors
from multitask.tasks.table import TASKS
from tests.helpers import tiny

SST = TASKS["sst"]
ROWS = "".join(f"{number}\tid{number}\ta film of {number} parts\t{number % 5}\n" for number in range(40))
SST_FILE = f"\tid\tsentence\tsentiment\n{ROWS}"
TENSORS = {"some": torch.arange(3000, dtype=torch.int32), "none": torch.empty(0), "one": torch.tensor([1.5])}


@pytest.fixture(autouse=True)
def nothing_checked_yet() -> None:
    """As a new process begins."""
    sealed.checked.clear()


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "runs"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "ids-sst-train.csv"
    file.write_text(SST_FILE)
    return file


def cached(place: Storage, data: Path) -> str:
    return cache_tokens(place, str(data), SST, tiny().tokenizer, labelled=True, max_length=32)


def flip(file: Path, at: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(bytes(content))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_flip_or_cut_of_sealed_tensors_is_found_out(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, file = Storage(folder), Path(folder) / "t"
        write_tensors(place, "t", TENSORS, {"source": 'a "seal":"x"'}, "key")
        size = file.stat().st_size
        if data.draw(st.booleans()):
            flip(file, data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
        else:
            os.truncate(file, data.draw(st.integers(0, size - 1)))
        with pytest.raises(Damaged, match=f"{folder}/t: damaged"):
            open_tensors(place, "t", "key")


def test_sealed_tensors_come_back_and_belong_to_their_key(place: Storage) -> None:
    write_tensors(place, "t", TENSORS, {"source": 'a "seal":"x"'}, "key")
    found = open_tensors(place, "t", "key")
    assert found.facts == {"source": 'a "seal":"x"'}
    assert {name: value.tolist() for name, value in found.tensors.items()} == {
        name: value.tolist() for name, value in TENSORS.items()
    }
    with pytest.raises(Damaged, match="its header is not"):
        open_tensors(place, "t", "another key")


def test_a_large_file_is_checked_where_it_is_looked_at(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_tensors, "CHUNK", 1000)
    monkeypatch.setattr(sealed_tensors, "WHOLE", 0)
    write_tensors(place, "t", {"some": TENSORS["some"]}, {}, "key")
    file = Path(place.full("t"))
    start = file.stat().st_size - TENSORS["some"].nbytes
    flip(file, start + 4 * 600)  # element 600, in the chunk of elements 500 to 749
    found = open_tensors(place, "t", "key")
    for sound in ((0, 500), (750, 3000), (600, 600)):
        found.touch("some", *sound)
    with pytest.raises(Damaged, match="its bytes from 2000 on are not what was written there"):
        found.touch("some", 749, 751)


def test_a_file_is_hashed_once_a_process(place: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(place, "t", TENSORS, {}, "key")
    checks: list[int] = []
    check = SealedTensors._check

    def counted(self: SealedTensors, begin: int, end: int) -> None:
        checks.append(end - begin)
        check(self, begin, end)

    monkeypatch.setattr(SealedTensors, "_check", counted)
    open_tensors(place, "t", "key")
    open_tensors(place, "t", "key")
    assert checks == [1]
    write_tensors(place, "t", TENSORS, {}, "key")  # another file by now
    open_tensors(place, "t", "key")
    assert checks == [1, 1]


def test_a_sealed_directorys_file_is_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Storage(str(tmp_path))
    save_bundle(place, "bundle", tiny())
    read_sealed(place, "bundle")
    sha256, hashed = hashlib.sha256, list[int]()
    monkeypatch.setattr(sealed.hashlib, "sha256", lambda data: hashed.append(len(data)) or sha256(data))
    read_sealed(place, "bundle")
    assert len(hashed) == 1, "the manifest's own seal alone"
    save_bundle(place, "bundle", tiny())  # other files by now
    hashed.clear()
    read_sealed(place, "bundle")
    assert len(hashed) == 4


def test_a_damaged_token_cache_is_made_again(place: Storage, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cached(place, data)
    file = Path(place.full(path))
    sound = load_tokens(place, path)
    tokens, labels, ids = sound.input_ids.clone(), sound.labels.clone(), list(sound.ids)
    flip(file, file.stat().st_size - 50)
    assert cached(place, data) == path
    assert f"{file}: damaged: its bytes from 0 on are not what was written there; made again" in caplog.text
    found = load_tokens(place, path)
    assert torch.equal(found.input_ids, tokens) and torch.equal(found.labels, labels)
    assert list(found.ids) == ids


def test_a_token_cache_under_anothers_key_is_none(place: Storage, data: Path) -> None:
    path = cached(place, data)
    data.write_text(SST_FILE.replace("parts", "acts"))
    other = cached(place, data)
    Path(place.full(other)).write_bytes(Path(place.full(path)).read_bytes())
    with pytest.raises(Damaged, match="its header is not what was written there"):
        load_tokens(place, other)


def test_damage_that_a_worker_meets_is_removed(place: Storage, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the driver, which does not read all of a large file, makes it again."""
    monkeypatch.setattr(sealed_tensors, "WHOLE", 0)
    monkeypatch.setattr(sealed_tensors, "CHUNK", 64)
    path = cached(place, data)
    file = Path(place.full(path))
    table = load_tokens(place, path)
    at = file.read_bytes().index(table.sentence(30).numpy().tobytes())
    flip(file, at)
    assert cached(place, data) == path  # which it does not see
    table = load_tokens(place, path)
    assert len(table.sentence(0)) > 2
    with pytest.raises(Damaged, match="removed: the same command makes it again"):
        table.sentence(30)
    assert not file.exists()
    assert len(load_tokens(place, cached(place, data)).sentence(30)) > 2


def grows(file: Path) -> None:
    file.write_text(SST_FILE + "99\tid99\tone more\t1\n")


def is_changed_in_place(file: Path) -> None:
    before = file.stat()
    file.write_text(SST_FILE.replace("film", "fond"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def is_replaced(file: Path) -> None:
    (file.parent / "new").write_text(SST_FILE)
    os.replace(file.parent / "new", file)


@pytest.mark.parametrize(
    ("change", "moved"), [(grows, "size"), (is_changed_in_place, "sha256"), (is_replaced, "inode")]
)
def test_a_data_file_that_changes_while_it_is_read_is_said(
    change: Callable[[Path], None], moved: str, place: Storage, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multitask.data import tokens

    tokenize = tokens.tokenize

    def meanwhile(*arguments: object, **options: object) -> object:
        found = tokenize(*arguments, **options)
        change(data)
        return found

    monkeypatch.setattr(tokens, "tokenize", meanwhile)
    with pytest.raises(UserError, match=rf"{data}: changed while it was read \(.*{moved} \S+ -> ") as caught:
        cached(place, data)
    assert "run again when nothing writes to it" in str(caught.value)
    assert place.list("cache/tokens") == []
    monkeypatch.undo()
    cached(place, data)  # what lies there now is sound


def test_reading_says_so_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([FileState(1, 2, 3, "a"), FileState(1, 5, 3, "a")])
    monkeypatch.setattr(FileState, "of", lambda path: next(states))
    with pytest.raises(UserError, match=r"changed while it was read \(modified 2 -> 5\)"):
        read_examples(str(data), SST, labelled=True)


def test_postings_that_change_while_they_are_read_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jobs.csv"
    file.write_text("Title,JobDescription\nnurse,cares for people\n")
    assert len(read_postings(str(file)).items) == 1
    states = iter([FileState(1, 2, 3, "a"), FileState(1, 2, 3, "b")])
    monkeypatch.setattr(FileState, "of", lambda path: next(states))
    with pytest.raises(UserError, match=rf"{file}: changed while it was read \(sha256 a -> b\)"):
        read_postings(str(file))


def test_a_cache_that_may_not_be_read_is_not_damaged(
    place: Storage, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached(place, data)

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SealedTensors, "_open", refused)
    with pytest.raises(StorageError, match=f"{path}: cannot be read: .*permission is missing"):
        cached(place, data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_flip_of_a_document_is_found_out(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, file = Storage(folder), Path(folder) / "outcome.json"
        write_document(place, file.name, {"epochs": 3, "metrics": {"sst/accuracy": 0.25}}, "trainer")
        size = file.stat().st_size
        if data.draw(st.booleans()):
            flip(file, data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
        else:
            os.truncate(file, data.draw(st.integers(0, size - 1)))
        with pytest.raises(Damaged, match=f"{file}: damaged"):
            read_document(place, file.name, "trainer")


def test_a_document_is_plain_json_and_belongs_somewhere(place: Storage) -> None:
    value = {"epochs": 3, "why": {"a": "é"}}
    write_document(place, "outcome.json", value, "trainer")
    assert json.loads(place.read_bytes("outcome.json")).keys() == {"seal", *value}
    assert read_document(place, "outcome.json", "trainer") == value
    with pytest.raises(Damaged):
        read_document(place, "outcome.json", "another trainer")


def test_copies_of_remote_files_are_one_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = private_folder()
    assert folder == tmp_path / f"minibert-cache-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    remote = Storage("memory://private")
    write_tensors(remote, "cache/one", TENSORS, {}, "key")
    found = open_tensors(remote, "cache/one", "key")
    assert found.file.is_relative_to(folder)
    assert [file for file in folder.rglob("*") if file.is_file()] == [found.file]


def test_a_damaged_copy_of_a_remote_file_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remote = Storage("memory://private-damaged")
    write_tensors(remote, "cache/one", TENSORS, {}, "key")
    flip(open_tensors(remote, "cache/one", "key").file, 900)
    assert open_tensors(remote, "cache/one", "key").tensors["one"].tolist() == [1.5]
    assert caplog.messages[-1].endswith("damaged, a copy of memory://private-damaged/cache/one; fetched again")
    remote.write_bytes("cache/one", remote.read_bytes("cache/one")[:-1])
    with pytest.raises(Damaged, match="memory://private-damaged/cache/one: damaged"):
        flip(open_tensors(remote, "cache/one", "key").file, 900)
        open_tensors(remote, "cache/one", "key")


@pytest.mark.parametrize("how", ["open to others", "a link", "somebody else's"])
def test_a_folder_of_copies_that_others_may_write_to_is_not_believed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    disk._own_folder.cache_clear()
    taken = tmp_path / f"minibert-cache-{os.geteuid()}"
    if how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        taken.symlink_to(tmp_path / "elsewhere")
    else:
        taken.mkdir(mode=0o700)
        taken.chmod(0o777 if how == "open to others" else 0o700)
    if how == "somebody else's":
        os.chown(taken, 12345, 12345)
    folder = private_folder()
    assert folder != taken and not folder.is_relative_to(tmp_path / "elsewhere")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder() == folder
    assert caplog.text.count("not this user's alone") == 1
    disk._own_folder.cache_clear()


def test_a_bundles_weights_may_be_read_by_whom_the_mask_allows(tmp_path: Path) -> None:
    """safetensors makes files that only their owner can read."""
    before = os.umask(0o027)
    try:
        save_bundle(Storage(str(tmp_path)), "bundle", tiny())
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "bundle").iterdir()}
    assert set(modes.values()) == {0o640}, modes
