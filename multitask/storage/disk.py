"""What is written on a local disk: whole or not at all, and still there after a power loss."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from multitask.storage.owners import draft_of, kept_in
from multitask.storage.retries import said_clearly

# What is answered where a directory cannot be synced: by file systems that have no such thing, and without permission.
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
# What a write that was cut off leaves beside its file: a draft of ours, or of safetensors.
DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.part|\.tmp\w{6}")
log = logging.getLogger(__name__)


def write_local(full: str, data: bytes) -> None:
    """Writes a local file, whole or not at all."""
    with drafted(full) as file:
        file.write(data)


def copy_local(source: str, full: str) -> None:
    """Copies the file `source`, whole or not at all."""
    with open(source, "rb") as content, drafted(full) as file:
        shutil.copyfileobj(content, file)


@contextmanager
def drafted(full: str) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is whole; then it is on the disk, and so is its name."""
    target = Path(full)
    make_folder(target.parent)
    draft = target.with_name(draft_of(target.name))
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
        sync_folder(target.parent)
    finally:
        draft.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes a local directory, and those above it that are missing; their names are on the disk when it returns."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Puts on the disk what was made, renamed and removed in a local directory: without it a power loss could undo
    that, in any order, whatever became of the files' content."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def private_folder() -> Path:
    """The private folder of this user's copies of remote files, which nobody else can write to or read.

    A folder of that name that belongs to somebody else, or is open to others, is not believed: this process then has
    one of its own.
    """
    folder = Path(tempfile.gettempdir()) / f"minibert-cache-{os.geteuid()}"
    with said_clearly("written", str(folder)):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    return Path(_own_folder(folder).name)


@cache
def _own_folder(refused: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for as long as this process lives."""
    log.warning("%s: not this user's alone (owner, mode 0700), so not used; remove it to keep copies there", refused)
    return tempfile.TemporaryDirectory(prefix=kept_in("cache"), ignore_cleanup_errors=True)
