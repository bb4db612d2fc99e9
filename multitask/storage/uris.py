"""URIs: how they are joined and shown, the file system behind one, and a file at one as a local file."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from multitask.errors import UserError
from multitask.storage.owners import kept_in
from multitask.storage.retries import persist

PASSWORD = re.compile(r"([\w+.-]+://)[^/@\s]*:[^/@\s]*@")


def absolute(uri: str) -> str:
    """A local path made absolute (workers run in other directories); any other URI as it is.

    Raises UserError where it can be none: a NUL in it, a ~user that is not there.
    """
    try:
        return uri if "://" in uri else str(Path(uri).expanduser().resolve())
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"path {uri!r}: {error}") from error


def shown(uri: str) -> str:
    """A path below the working directory as it is typed there, `runs/demo`; any other place as it is."""
    path = Path(uri)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else uri


def join(uri: str, *parts: str) -> str:
    base = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return base + "/".join(parts)


def below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def open_fs(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it. Raises UserError where there is none of that name, and where the
    URI holds a password: it would stand in results, logs and errors."""
    if found := PASSWORD.match(uri):
        raise UserError(f"storage '{found[1]}***@...': credentials come from the environment, not from a URI")
    try:  # listings are not cached: others write there too
        fs, path = fsspec.url_to_fs(absolute(uri), use_listings_cache=False, **_own_retries(uri))
    except (ValueError, ImportError) as error:
        raise UserError(f"storage '{uri}': {error}") from error
    return fs, path


def _own_retries(uri: str) -> dict[str, Any]:
    """botocore tries again by itself, after up to a second the first time: left to retries.py, unless asked for."""
    asked = "AWS_MAX_ATTEMPTS" in os.environ or "config_kwargs" in fsspec.config.conf.get("s3", {})
    once = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    return once if uri.startswith(("s3://", "s3a://")) and not asked else {}


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A file at any fsspec URI as a local one: itself, or a copy for as long as it is wanted.

    Raises FileNotFoundError, StorageError, and UserError for a file that changed while it was copied.
    """
    fs, path = open_fs(uri)
    if isinstance(fs, LocalFileSystem):
        with open(path, "rb"):  # raises where it is not there, or not readable
            pass
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix=kept_in("download")) as folder:
        copy = Path(folder) / "file"
        before = _version(fs, path)
        persist(fs, "read", uri, partial(fs.get_file, path, str(copy)))
        now = _version(fs, path)
        if before and now and before != now:
            moved = ", ".join(f"{name} {before.get(name)} -> {now.get(name)}" for name in before | now)
            raise UserError(f"{uri}: changed while it was read ({moved}); run again when nothing writes to it")
        yield copy


def _version(fs: Any, path: str) -> dict[str, str]:
    """What tells a file elsewhere from what it was before, as far as its server says."""
    try:
        facts = fs.info(path)
    except Exception:  # every client has its own; whoever reads the file says what is wrong
        return {}
    return {name: str(facts[name]) for name in ("size", "ETag", "LastModified", "mtime", "generation") if name in facts}
