"""Sealed directories: a bundle, a checkpoint, an index. They count as there when their manifest fits their files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from multitask.retries import said_clearly
from multitask.storage import MANIFEST, Storage, below, join

MAX_MANIFEST = 1_000_000  # bytes
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # of a file


class Damaged(Exception):
    """A sealed directory that is torn, truncated or altered; says what and where."""


# A file's content: bytes, or tensors, which are written as safetensors straight from where they lie in memory.
Content = bytes | Mapping[str, Tensor]


def write_sealed(
    storage: Storage,
    path: str,
    files: Mapping[str, Content],
    facts: Mapping[str, Any],
    fence: Callable[[], None] = lambda: None,
) -> None:
    """A directory of files with `manifest.json`, their sizes and checksums, written last.

    Without a manifest that fits its files the directory counts as absent. fence: called right before the manifest.
    """
    storage.remove(path)
    with storage.staged(path) as folder:
        sums = {name: _write_content(folder / name, content) for name, content in files.items()}
    fence()
    storage.write_json(below(path, MANIFEST), {**facts, "files": sums})


def _write_content(file: Path, content: Content) -> dict[str, Any]:
    """Writes one file through to the disk; returns its size and checksum."""
    with said_clearly("written", str(file)):  # a full disk, say, which safetensors reports in its own way
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            save_file(dict(content), file)
    with said_clearly("written", str(file)), open(file, "rb+") as written:
        os.fsync(written.fileno())
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(written, "sha256").hexdigest()}


def is_sealed(storage: Storage, path: str = "") -> bool:
    return storage.exists(below(path, MANIFEST))


def read_sealed(storage: Storage, path: str = "") -> dict[str, bytes]:
    """The files of a sealed directory, every checksum checked. Raises Damaged.

    What the manifest says is not believed: it names files of this directory alone, and none is read that is not of the
    size it gives.
    """
    where = join(storage.uri, path)
    try:
        expected = _manifest(storage, path)
        files = {name: _file_of(storage, below(path, name), *entry) for name, entry in expected.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where}: {type(error).__name__}: {error}") from error
    return files


def _manifest(storage: Storage, path: str) -> dict[str, tuple[int, str]]:
    """Name -> size and checksum."""
    if (size := storage.size(below(path, MANIFEST))) > MAX_MANIFEST:
        raise ValueError(f"{MANIFEST} has {size} bytes, at most {MAX_MANIFEST} are sane")
    found = storage.read_json(below(path, MANIFEST))["files"]
    if not isinstance(found, dict):
        raise ValueError(f"{MANIFEST} has no mapping of files")
    if strange := [name for name in found if not NAME.fullmatch(name)]:
        raise ValueError(f"{MANIFEST} names {strange[0][:80]!r}, which is no plain file name")
    return {name: (entry["bytes"], entry["sha256"]) for name, entry in found.items()}


def _file_of(storage: Storage, path: str, size: int, sha256: str) -> bytes:
    found = storage.size(path)
    data = storage.read_bytes(path) if found == size else b""
    if found != size or hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{path}: {found} bytes do not match the manifest")
    return data
