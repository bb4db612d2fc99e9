"""Tensors in a file that is memory-mapped, with checksums in the file itself: what caches are kept in.

It is a safetensors file. Its metadata hold the sha256 of each CHUNK bytes of the tensors and, as `seal`, that of the
header. A file below WHOLE bytes is checked when it is opened, once a process. Of a larger one the header is, and a
chunk when something in it is first asked for (`SealedTensors.touch`): memory and start do not grow with the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from multitask.storage.retries import said_clearly
from multitask.storage.sealed import BLANK, Damaged, checked, identity, said_of
from multitask.storage.storage import Storage
from multitask.storage.uris import join

CHUNK = 1 << 22  # bytes
WHOLE = 1 << 26  # bytes: a file below that is checked at once
MAX_HEADER = 1 << 28  # bytes
log = logging.getLogger(__name__)


def write_tensors(
    storage: Storage, path: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str], of: str
) -> None:
    """Writes tensors as a file with its checksums, whole or not at all. of: the key under which it is kept, which is
    bound into its seal."""
    with said_clearly("written", tempfile.gettempdir()):
        temporary = tempfile.TemporaryDirectory(prefix="minibert-tensors-")
    with temporary as folder:
        file = Path(folder) / "tensors"
        size = sum(tensor.nbytes for tensor in tensors.values())
        blank = {"seal": BLANK, "chunks": BLANK * -(-size // CHUNK)}
        with said_clearly("written", str(file)):
            save_file({name: value.contiguous() for name, value in tensors.items()}, file, {**facts, **blank})
            _seal(file, of)
        storage.write_file(path, file)


def _seal(file: Path, of: str) -> None:
    """Puts the checksums into the places that were left for them."""
    with open(file, "r+b") as opened:
        header = _header(opened)
        sums = b"".join(_sums(opened))
        header = _put(header, b"chunks", BLANK.encode() * (len(sums) // len(BLANK)), sums)
        header = _put(header, b"seal", BLANK.encode(), _checksum(header, of))
        opened.seek(8)
        opened.write(header)


def _put(header: bytes, key: bytes, old: bytes, new: bytes) -> bytes:
    """The header with another value of a key of equal length. Quotes in other values are escaped, so the key stands
    there once."""
    return header.replace(b'"%b":"%b"' % (key, old), b'"%b":"%b"' % (key, new), 1)


def _checksum(header: bytes, of: str) -> bytes:
    return hashlib.sha256(of.encode() + b"\n" + header).hexdigest().encode()


def _header(opened: BinaryIO) -> bytes:
    """The header's JSON; the tensors' bytes follow. Raises ValueError for a length that is none."""
    opened.seek(0)
    length = int.from_bytes(opened.read(8), "little")
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return opened.read(length)


def _sums(opened: BinaryIO) -> list[bytes]:
    """The checksum of each chunk from the file's position on."""
    return [hashlib.sha256(chunk).hexdigest().encode() for chunk in iter(partial(opened.read, CHUNK), b"")]


class SealedTensors:
    """The tensors of a file, memory-mapped. facts: its metadata. Raises Damaged, naming `where`, and StorageError where
    it cannot be read."""

    def __init__(self, file: Path, where: str, of: str) -> None:
        self.file, self.where = file, where
        with said_clearly("read", where):
            try:
                self._open(of)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
                raise Damaged(f"{where}: damaged: {said_of(error)}") from error

    def _open(self, of: str) -> None:
        with open(self.file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            header = _header(opened)
            self._start = opened.tell()
            read = json.loads(header)
            self.facts: dict[str, str] = read.pop("__metadata__")
            self._at = {name: entry["data_offsets"] for name, entry in read.items()}
            seal, sums = self.facts.pop("seal"), self.facts.pop("chunks")
            if _checksum(_put(header, b"seal", seal.encode(), BLANK.encode()), of) != seal.encode():
                raise ValueError("its header is not what was written there")
            if size != self._start + max((end for _, end in self._at.values()), default=0):
                raise ValueError(f"{size} bytes are not what its header says")
            self._expected = [sums[at : at + len(BLANK)] for at in range(0, len(sums), len(BLANK))]
            self._checked = np.zeros(len(self._expected), bool)
            known = identity(str(self.file), seal)
            if known in checked:
                self._checked[:] = True
            elif size < WHOLE:
                self._check(0, len(self._expected))
                checked.add(known)
        with safe_open(str(self.file), framework="pt") as tensors:
            self.tensors: dict[str, Tensor] = {name: tensors.get_tensor(name) for name in self._at}
        self.whole = bool(self._checked.all())

    def touch(self, name: str, start: int, stop: int) -> None:
        """To be called before the elements start..stop of a flat tensor are looked at. Raises Damaged."""
        if self.whole or stop <= start:
            return
        first, size = self._at[name][0], self.tensors[name].element_size()
        begin, end = (first + start * size) // CHUNK, (first + stop * size - 1) // CHUNK + 1
        if not self._checked[begin:end].all():
            try:
                self._check(begin, end)
            except (OSError, ValueError) as error:
                raise Damaged(f"{self.where}: damaged: {error}") from error

    def touch_all(self, name: str) -> None:
        self.touch(name, 0, self.tensors[name].numel())

    def _check(self, begin: int, end: int) -> None:
        """Raises ValueError where a chunk is not what was written."""
        with open(self.file, "rb") as opened:
            for number in range(begin, end):
                opened.seek(self._start + number * CHUNK)
                if hashlib.sha256(opened.read(CHUNK)).hexdigest() != self._expected[number]:
                    raise ValueError(f"its bytes from {number * CHUNK} on are not what was written there")
                self._checked[number] = True


def open_tensors(storage: Storage, path: str, of: str) -> SealedTensors:
    """The file at that path, from a copy on this machine where the storage is elsewhere. Raises Damaged,
    FileNotFoundError, StorageError."""
    where = join(storage.uri, path)
    if storage.is_local:
        return SealedTensors(_there(Path(storage.full(path))), where, of)
    copy = storage.local_file(path)
    try:
        return SealedTensors(copy, where, of)
    except Damaged:  # the copy alone, perhaps
        copy.unlink(missing_ok=True)
    found = SealedTensors(storage.local_file(path), where, of)
    log.warning("%s: damaged, a copy of %s; fetched again", copy, where)
    return found


def _there(file: Path) -> Path:
    if not file.exists():
        raise FileNotFoundError(str(file))
    return file
