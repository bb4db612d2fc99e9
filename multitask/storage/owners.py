"""Whose a temporary file is: its process stands in its name, so that what a dead one has left can be told.

A name is proof on the machine, and in the space of process ids, that it was made in; elsewhere it says nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

TAG = re.compile(r"([0-9a-f]{12})-(\d+)-(\d+)")  # machine, process, when it was born
KEPT_IN = re.compile(rf"minibert-[a-z]+-{TAG.pattern}-.*")  # a folder of the temporary directory
DRAFT = re.compile(rf"\..+\.{TAG.pattern}\.[0-9a-f]{{8}}\.part")
TRIAL = re.compile(rf"\.(probe|doctor)-{TAG.pattern}-[0-9a-f]{{8}}")  # in a storage's root
log = logging.getLogger(__name__)


def machine() -> str:
    """A name for this boot of the machine and its space of process ids; on systems without /proc a name that no other
    process has."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def born(process: int) -> str | None:
    """When a process of this machine started, in the kernel's own count; None where there is none, or a dead one."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if facts[0] in "ZX" else facts[19]


def tag() -> str:
    """This process, in the form that names of files have it."""
    return _tag(os.getpid())


@cache
def _tag(process: int) -> str:
    return f"{_machine_tag()}-{process}-{born(process) or 0}"


@cache
def _machine_tag() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:12]


def kept_in(kind: str) -> str:
    """How the name of a temporary folder of this process begins."""
    return f"minibert-{kind}-{tag()}-"


def trial(kind: str) -> str:
    """A name for what is written into a storage to see whether that can be done."""
    return f".{kind}-{tag()}-{uuid.uuid4().hex[:8]}"


def draft_of(name: str) -> str:
    """A name for a file that is renamed to `name` when it is whole."""
    return f".{name}.{tag()}.{uuid.uuid4().hex[:8]}.part"


def is_dead(name: str) -> bool:
    """Whether the maker of a file or folder of that name is a process of this machine that is no more."""
    found = TAG.search(name)
    return found is not None and found[1] == _machine_tag() and born(int(found[2])) != found[3]


def dead_below(folder: Path, pattern: re.Pattern[str], deep: bool) -> Iterator[Path]:
    """This user's files and folders, in a local folder or anywhere below it, whose names say that their process is no
    more."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if pattern.fullmatch(entry.name):
                    if is_dead(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        yield Path(entry)
                elif deep and entry.is_dir(follow_symlinks=False):
                    yield from dead_below(Path(entry), pattern, deep)


def clean_temporary() -> list[Path]:
    """Removes what this user's dead processes have left in the temporary directory; returns the paths."""
    return _removed(dead_below(Path(tempfile.gettempdir()), KEPT_IN, deep=False))


def clean_drafts(folder: Path) -> list[Path]:
    """Removes the unfinished files that this user's dead processes have left below a local folder; returns their
    paths."""
    return _removed(dead_below(folder, DRAFT, deep=True))


def _removed(found: Iterator[Path]) -> list[Path]:
    gone = list(found)
    for path in gone:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        log.info("removed %s, which a process that is no more had left", path)
    return gone
