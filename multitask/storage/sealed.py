"""What is read back is checked: sealed documents, and sealed directories.

A document is a JSON object in one file, with the checksum of its own text as the first key, `seal`. A directory (a
bundle, a checkpoint, an index) counts as there when its manifest.json, a document, fits its files. Large arrays that
are memory-mapped have seals of their own (storage/tensors.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from multitask.errors import StorageError, UserError
from multitask.storage.retries import said_clearly
from multitask.storage.storage import MANIFEST, Storage
from multitask.storage.uris import below, join

MAX_MANIFEST = 1_000_000  # bytes
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # of a file
BLANK = "0" * 64  # stands in a seal's place while its checksum is taken
_SEALED = re.compile(rb'\{\s*"seal": "([0-9a-f]{64})"')
# What a document of a build before the seals begins with: its first key.
_UNSEALED = re.compile(rb'\{\s*"(schema|files|source|epochs|epoch|id)":')


Identity = tuple[str, int, int, int, str]
checked: set[Identity] = set()  # local files whose content this process has found to be what its checksum says


def identity(file: str, checksum: str) -> Identity:
    """What tells a local file from what lay there before: path, inode, size, time; and the checksum it has to have."""
    found = os.stat(file)
    return file, found.st_ino, found.st_size, found.st_mtime_ns, checksum


class Damaged(UserError):
    """Something that was written whole is torn, truncated or altered, or another's; says what and where."""


def said_of(error: Exception) -> str:
    """An error's own words, with its kind where they need it."""
    return str(error) if type(error) in (ValueError, Damaged) else f"{type(error).__name__}: {error}"


def sealed_text(text: str, of: str = "") -> bytes:
    """A text that begins with `{"seal": BLANK`, with its checksum in the place of BLANK.

    of: what the text belongs to, which is in the checksum and not in the text: the same text elsewhere is no sound one.
    """
    found = hashlib.sha256(f"{of}\n{text}".encode()).hexdigest()
    return text.replace(BLANK, found, 1).encode()


def checked_text(data: bytes, where: str, of: str = "") -> str:
    """The text that `sealed_text` sealed, its checksum checked. Raises Damaged, naming `where`.

    A text that a build before the seals wrote has none, and is taken as it is.
    """
    found = _SEALED.match(data)
    if found:
        start, end = found.span(1)
        blank = data[:start] + BLANK.encode() + data[end:]
        if hashlib.sha256(of.encode() + b"\n" + blank).hexdigest().encode() != found[1]:
            raise Damaged(f"{where}: damaged: its content is not what was written there")
    elif not _UNSEALED.match(data):
        raise Damaged(f"{where}: damaged: {len(data)} bytes that begin with neither a seal nor a known key")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Damaged(f"{where}: damaged: {error}") from error


def document_bytes(value: Mapping[str, Any], of: str = "") -> bytes:
    """A JSON object with its seal; `of` as in `sealed_text`."""
    return sealed_text(json.dumps({"seal": BLANK, **value}, indent=2, allow_nan=False) + "\n", of)


def write_document(storage: Storage, path: str, value: Mapping[str, Any], of: str = "") -> None:
    """Writes a JSON object with its seal, whole or not at all; `of` as in `sealed_text`."""
    storage.write_bytes(path, document_bytes(value, of))


def document_of(data: bytes, where: str, of: str = "") -> dict[str, Any]:
    """The object of `document_bytes`, without its seal. Raises Damaged, naming `where`."""
    text = checked_text(data, where, of)
    try:
        found: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{where}: damaged: {error}") from error
    found.pop("seal", None)
    return found


def read_document(storage: Storage, path: str, of: str = "") -> dict[str, Any]:
    """The object of `write_document`, without its seal. Raises Damaged, and FileNotFoundError where there is none."""
    return document_of(storage.read_bytes(path), join(storage.uri, path), of)


# A file's content: bytes, or tensors, which are written as safetensors straight from where they lie in memory.
Content = bytes | Mapping[str, Tensor]


def write_sealed(
    storage: Storage,
    path: str,
    files: Mapping[str, Content],
    facts: Mapping[str, Any],
    before: Callable[[], None] = lambda: None,
    of: str = "",
) -> None:
    """A directory of files with `manifest.json`, their sizes and checksums, written last.

    Without a manifest that fits its files the directory counts as absent. before: called right before the manifest. of:
    what the directory belongs to, as in `sealed_text`.
    """
    with suppress(StorageError):  # where deletes are denied it is written over, by which its manifest fits no more
        storage.remove(path)
    with storage.staged(path) as folder:
        sums = {}
        for name, content in files.items():
            if storage.is_local:  # these files lie there at once; elsewhere their upload asks
                storage.check()
            sums[name] = _write_content(folder / name, content)
    before()
    write_document(storage, below(path, MANIFEST), {**facts, "files": sums}, of)


def _write_content(file: Path, content: Content) -> dict[str, Any]:
    """Writes one file through to the disk; returns its size and checksum."""
    with said_clearly("written", str(file)):  # a full disk, say, which safetensors reports in its own way
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            save_tensors(file, content)
    with said_clearly("written", str(file)), open(file, "rb+") as written:
        os.fsync(written.fileno())
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(written, "sha256").hexdigest()}


def save_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file with the mode of any other new file: from 0.8 on safetensors makes one that its owner
    alone can read."""
    file.touch()
    mode = file.stat().st_mode
    save_file(dict(tensors), file, dict(metadata) if metadata else None)
    file.chmod(mode)


def is_sealed(storage: Storage, path: str = "") -> bool:
    return storage.exists(below(path, MANIFEST))


def is_whole(storage: Storage, path: str = "") -> bool:
    """Whether a sealed directory's manifest is sound and its files are there in their sizes; none of them is read."""
    try:
        expected = _manifest(storage, path, "")
        return all(storage.size(below(path, name)) == size for name, (size, _) in expected.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, Damaged):
        return False


def read_sealed(storage: Storage, path: str = "", of: str = "") -> dict[str, bytes]:
    """The files of a sealed directory, every checksum checked; `of` as in `write_sealed`. Raises Damaged.

    What the manifest says is not believed: it names files of this directory alone, and none is read that is not of the
    size it gives.
    """
    where = join(storage.uri, path)
    try:
        expected = _manifest(storage, path, of)
        files = {name: _file_of(storage, below(path, name), *entry) for name, entry in expected.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where}: damaged: {said_of(error)}") from error
    return files


def _manifest(storage: Storage, path: str, of: str) -> dict[str, tuple[int, str]]:
    """Name -> size and checksum."""
    if (size := storage.size(below(path, MANIFEST))) > MAX_MANIFEST:
        raise ValueError(f"{MANIFEST} has {size} bytes, at most {MAX_MANIFEST} are sane")
    found = read_document(storage, below(path, MANIFEST), of)["files"]
    if not isinstance(found, dict):
        raise ValueError(f"{MANIFEST} has no mapping of files")
    if strange := [name for name in found if not NAME.fullmatch(name)]:
        raise ValueError(f"{MANIFEST} names {strange[0][:80]!r}, which is no plain file name")
    return {name: (entry["bytes"], entry["sha256"]) for name, entry in found.items()}


def _file_of(storage: Storage, path: str, size: int, sha256: str) -> bytes:
    found, known = storage.size(path), storage.is_local and identity(storage.full(path), sha256)
    data = storage.read_bytes(path) if found == size else b""
    if found != size or (known not in checked and hashlib.sha256(data).hexdigest() != sha256):
        raise ValueError(f"{path}: {found} bytes do not match {MANIFEST}")
    if known:
        checked.add(known)
    return data
