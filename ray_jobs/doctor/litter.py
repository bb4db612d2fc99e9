"""What lies in a storage, and in the temporary directory, that nothing needs any more: a line a kind, never removed."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_jobs.doctor.diagnosis import Diagnosis

if TYPE_CHECKING:
    from multitask.storage.storage import Storage

HOUR, DAY = 3600.0, 86400.0
SETTLED = HOUR  # what is younger may still be in the making
UNUSED = 30 * DAY  # of a cache
SHOWN = 3  # of a kind's places
LOOKS = 4  # at a storage that changes
# Directories that count as there by their manifest.
SEALED = re.compile(r"(?:.*/)?(?:checkpoints/step-\d+|bundle|cache/encoders/[^/]+)")


@dataclass(frozen=True)
class Left:
    """A file, or all that lies in a directory: where, its bytes, and how long ago the newest of it was written."""

    path: str
    size: int
    age: float


def check_litter(storage: Storage) -> Iterator[Diagnosis]:
    """A note for each kind of litter in a storage and in the temporary directory: sizes, ages, how to remove it."""
    files = _files(storage)
    remove = "rm -r" if storage.is_local else "aws s3 rm --recursive" if "s3" in storage.fs.protocol else "remove"
    kinds = {
        "unfinished": ("files that were never finished", _unfinished(files)),
        "torn": ("directories without a manifest, which count as absent", _torn(files)),
        "leases": ("leases of drivers that are no more", _leases(storage, files)),
        "superseded": ("superseded trainers that no experiment refers to", _superseded(storage, files)),
        "caches": (f"caches not used for {UNUSED / DAY:.0f} days, made again when needed", _unused(files)),
    }
    for kind, (what, found) in kinds.items():
        if found:
            yield _note(kind, what, storage.uri, found, f"{remove} {storage.uri}/{found[0].path}")
    yield from _uploads(storage)
    if temporary := list(_temporary()):
        folder = tempfile.gettempdir()
        yield _note("temporary", "folders of dead runs", folder, temporary, f"rm -r {folder}/{temporary[0].path}")


def _note(kind: str, what: str, where: str, found: list[Left], how: str) -> Diagnosis:
    oldest, size = max(left.age for left in found), sum(left.size for left in found)
    names = ", ".join(left.path for left in found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
    fact = f"{where}: {len(found)} {what}, {_bytes(size)}, the oldest {_ago(oldest)}: {names}; to remove one: {how}"
    return Diagnosis("note", kind, fact)


def _bytes(size: int) -> str:
    unit = min(3, max(0, (max(size, 1).bit_length() - 1) // 10))
    return f"{size / 1024**unit:.1f} {('B', 'KiB', 'MiB', 'GiB')[unit]}" if unit else f"{size} B"


def _ago(age: float) -> str:
    return f"{age / DAY:.0f} days" if age >= 2 * DAY else f"{age / HOUR:.0f} hours" if age >= 2 * HOUR else "new"


def _files(storage: Storage) -> list[Left]:
    """Every file of the storage. A file that a run removes amid the listing begins it again, LOOKS times in all."""
    for _ in range(LOOKS - 1):
        with suppress(FileNotFoundError):
            found = storage.fs.find(storage.root, detail=True)
            break
    else:
        found = storage.fs.find(storage.root, detail=True)
    root, now = storage.root.rstrip("/") + "/", time.time()
    return [Left(path.removeprefix(root), int(facts["size"] or 0), now - _when(facts)) for path, facts in found.items()]


def _when(facts: dict[str, Any]) -> float:
    """The time when a file was last written or, where a disk knows that, read; seconds since the epoch."""
    written = facts.get("LastModified", facts.get("mtime", 0.0))
    return written.timestamp() if isinstance(written, datetime) else max(float(written), float(facts.get("atime", 0.0)))


def _unfinished(files: list[Left]) -> list[Left]:
    from multitask.storage.owners import DRAFT, TRIAL, is_dead

    old = re.compile(r"\..+\.[0-9a-f]{8}\.part|\.(?:probe|doctor)-[0-9a-f]{8}")  # of builds before the tags
    found = []
    for left in files:
        names = left.path.split("/")
        if any(part for part in (names[0], names[-1]) if _is_unfinished(part, DRAFT, TRIAL, old)) and (
            left.age > SETTLED or is_dead(left.path)
        ):
            found.append(left)
    return found


def _is_unfinished(name: str, *patterns: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)


def _torn(files: list[Left]) -> list[Left]:
    whole = {left.path.rpartition("/")[0] for left in files if left.path.endswith("/manifest.json")}
    folders = {folder for left in files if SEALED.fullmatch(folder := left.path.rpartition("/")[0])}
    return [left for left in _together(files, folders - whole) if left.age > SETTLED]


def _together(files: list[Left], folders: Iterable[str]) -> list[Left]:
    """The files of each folder as one Left for the folder."""
    found = []
    for folder in sorted(folders):
        inside = [left for left in files if left.path.startswith(f"{folder}/")]
        if inside:
            found.append(Left(folder, sum(left.size for left in inside), min(left.age for left in inside)))
    return found


def _leases(storage: Storage, files: list[Left]) -> list[Left]:
    from multitask.experiment.lease import FILE, is_over

    return [left for left in files if left.path.endswith(f"/{FILE}") and is_over(storage, left.path, left.age)]


def _superseded(storage: Storage, files: list[Left]) -> list[Left]:
    """The folders of superseded trainers, but for those that a stage of their experiment stands for."""
    from multitask.experiment.fence import EXPERIMENT_FILE
    from multitask.storage.sealed import Damaged, read_document

    folders: set[str] = set()
    for left in files:
        home, _, name = left.path.rpartition("/")
        if name == EXPERIMENT_FILE:
            try:
                saved = read_document(storage, left.path)
            except Damaged:  # every command on that experiment says so
                continue
            kept = {record["trainer"] for record in saved["stages"].values()}
            folders |= {f"{home}/{old['trainer']}" for old in saved["superseded"] if old["trainer"] not in {"", *kept}}
    return _together(files, folders)


def _unused(files: list[Left]) -> list[Left]:
    return [left for left in files if left.path.startswith("cache/") and left.age > UNUSED]


def _uploads(storage: Storage) -> Iterator[Diagnosis]:
    """A note on uploads in parts that were never completed: S3 keeps, and bills, their parts."""
    if "s3" not in storage.fs.protocol:
        return
    bucket, prefix, _ = storage.fs.split_path(storage.root)
    answer = storage.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
    found = answer.get("Uploads", [])
    if found:
        one, oldest = found[0], time.time() - min(upload["Initiated"].timestamp() for upload in found)
        how = f"aws s3api abort-multipart-upload --bucket {bucket} --key {one['Key']} --upload-id {one['UploadId']}"
        what = f"{len(found)} uploads in parts that were never completed, the oldest {_ago(oldest)}"
        yield Diagnosis("note", "uploads", f"{storage.uri}: {what}: {one['Key']}; to remove one: {how}")


def _temporary() -> Iterator[Left]:
    """This user's folders of dead runs in the temporary directory."""
    from multitask.storage.owners import KEPT_IN, is_dead

    now = time.time()
    for path in Path(tempfile.gettempdir()).glob("minibert-*"):
        with suppress(FileNotFoundError):  # a run that ends meanwhile removes its own
            facts = path.lstat()
            if facts.st_uid == os.geteuid() and path.is_dir() and KEPT_IN.fullmatch(path.name) and is_dead(path.name):
                size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
                yield Left(path.name, size, now - facts.st_mtime)
