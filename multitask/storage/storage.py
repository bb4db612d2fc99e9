"""Everything a run reads and writes goes through here: any fsspec URI, complete or absent."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, cast

from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem

from multitask.errors import StorageError, UserError
from multitask.storage import lag
from multitask.storage.disk import copy_local, make_folder, private_folder, write_local
from multitask.storage.owners import TRIAL, clean_drafts, clean_temporary, draft_of, is_dead, kept_in, trial
from multitask.storage.retries import Doing, answer_of, persist, said_clearly
from multitask.storage.uris import absolute, below, join, open_fs

MANIFEST = "manifest.json"
SMALL = (".json", ".jsonl", ".yaml", ".csv")  # how the names of files end that are read in one go
UNCONDITIONAL = {"InvalidArgument", "InvalidRequest", "NotImplemented", "NotSupported", "UnsupportedOperation"}
Fence = Callable[[], None]
T = TypeVar("T")
log = logging.getLogger(__name__)


def file_at(uri: str) -> tuple[Storage, str]:
    """A file's directory and its name in it."""
    folder, slash, name = uri.rpartition("/")
    return Storage(folder or slash or "."), name


class Storage:
    """A directory at an fsspec URI; paths below it are relative, with forward slashes.

    What passes is waited out (retries.py). Raises StorageError for what does not, FileNotFoundError for what is not
    there.

    fence: called before each write and removal, here and in what lies below, and again where one is tried again; it
    raises Overtaken where another process owns the place now.
    """

    def __init__(self, uri: str, fence: Fence | None = None) -> None:
        self.uri, self._fence = absolute(uri), fence
        self.fs, self.root = open_fs(uri)

    def __reduce__(self) -> tuple[type[Storage], tuple[str, Fence | None]]:
        return Storage, (self.uri, self._fence)

    @cached_property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def at(self, path: str) -> Storage:
        """The storage below `path`."""
        return Storage(join(self.uri, path), self._fence)

    def check(self) -> None:
        """Raises Overtaken where the fence does: for code that writes into a `staged` folder by itself."""
        if self._fence:
            self._fence()

    def full(self, path: str) -> str:
        return join(self.root, path) if path else self.root

    def probe(self) -> None:
        """Writes, reads and removes a small file. Raises StorageError where it cannot be written or read, UserError
        where the place is a file; a file that cannot be removed is a warning."""
        if self.is_local and Path(self.root).is_file():
            raise UserError(
                f"'{self.uri}': a file; valid: a folder, there or not yet, or a URI such as s3://bucket/runs"
            )
        path = trial("probe")
        self.write_bytes(path, b"minibert")
        self.read_bytes(path)
        try:
            self.remove(path)
        except StorageError as error:  # a run needs no deletes
            log.warning("old checkpoints will stay, and so does a small file: %s", error)

    def clean(self, experiment: str) -> None:
        """Removes what dead processes of this machine and user have left unfinished: temporary folders, drafts of the
        experiment's, the caches' and this user's copies, and what was written to try a storage. Never raises."""
        clean_temporary()
        with suppress(Exception):  # it only takes room
            clean_drafts(private_folder())
            for name in self.list():
                if TRIAL.fullmatch(name) and is_dead(name):
                    self.remove(name)
                    log.info("removed %s, which a process that is no more had left", self._uri_of(name))
                elif self.is_local and name in ("cache", experiment):
                    clean_drafts(Path(self.full(name)))

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory. Raises StorageError where that cannot be told; fsspec's own `exists`
        would call that absent, too."""
        try:
            self._seen(path, self.fs.info)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def list(self, path: str = "") -> list[str]:
        """Names directly below `path`, sorted; none where it does not exist."""
        try:
            entries = self._do("listed", path, partial(self.fs.ls, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        names = {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries}
        return sorted(names | (set() if self.is_local else lag.awaited_names(self._uri_of(path))))

    def size(self, path: str) -> int:
        """The size of a file in bytes. Raises FileNotFoundError."""
        facts = self._seen(path, self.fs.info)
        if facts["type"] != "file":
            raise FileNotFoundError(f"{join(self.uri, path)}: a {facts['type']}, no file")
        return int(facts["size"])

    def read_bytes(self, path: str) -> bytes:
        read = self.fs.cat_file
        if self._is_s3 and path.endswith(SMALL):  # else its size is asked for first, to read it in parts
            read = partial(read, max_concurrency=1)
        return cast(bytes, self._seen(path, read))

    def caught_up(self, read: Callable[[], T], is_new: Callable[[T], bool]) -> T:
        """What `read` gives, read again until it is new, for as long as reads may lag behind writes: never on a
        disk."""
        until = time.monotonic() + (0.0 if self.is_local else lag.SECONDS)
        while not is_new(found := read()) and time.monotonic() < until:
            time.sleep(lag.LOOK_SECONDS)
        return found

    def read_version(self, path: str) -> tuple[bytes, str]:
        """A file's content, and what its server calls that version of it: "" where it has no such name.

        Raises FileNotFoundError.
        """
        if not self._is_s3:
            return self.read_bytes(path), ""
        found: tuple[bytes, str] = self._do("read", path, partial(sync, self.fs.loop, _versioned, self.fs))
        return found

    def replace(self, path: str, data: bytes, version: str | None) -> str:
        """Writes a file only where it still is of that version, or, for None, where there is none.

        Returns the new version. Raises Changed where it is not, and Unconditional where the server knows no such
        writes; one that ignores the condition writes in any case. After a lost answer Changed may be said of what this
        call itself has written.
        """
        if not self._is_s3:
            raise Unconditional(self.uri)
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            answer = self._do("written", path, lambda full: self.fs.pipe_file(full, data, **condition))
        except StorageError as error:
            status, code = answer_of(error)
            if status == 412 or code == "NoSuchKey":
                raise Changed(self._uri_of(path)) from error
            if status == 501 or (status == 400 and code in UNCONDITIONAL):
                raise Unconditional(self.uri) from error
            raise
        return str(answer["ETag"])

    def read_json(self, path: str) -> Any:
        return json.loads(self.read_bytes(path))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes a file, whole or not at all: a local one appears by rename, an object by one put."""
        write = write_local if self.is_local else self.fs.pipe_file
        self._do("written", path, lambda full: write(full, data))
        self._note_there(path)

    def write_file(self, path: str, file: Path) -> None:
        """Writes a local file's content, which need not fit into memory, whole or not at all."""
        write = copy_local if self.is_local else self.fs.put_file
        self._do("written", path, lambda full: write(str(file), full))
        self._note_there(path)

    @contextmanager
    def staged(self, path: str) -> Iterator[Path]:
        """A local folder for files of the directory `path`: the directory itself, or one uploaded at the end."""
        if self.is_local:
            folder = Path(self.full(path))
            self._do("written", path, lambda full: make_folder(Path(full)))
            yield folder
            return
        with said_clearly("written", tempfile.gettempdir()):
            temporary = tempfile.TemporaryDirectory(prefix=kept_in("upload"))
        with temporary as name:
            yield Path(name)
            for file in sorted(Path(name).iterdir()):
                self.write_file(below(path, file.name), file)

    def write_json(self, path: str, value: Any) -> None:
        self.write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def remove(self, path: str) -> None:
        """Removes a file or a directory with all below it, manifests first; nothing where it is absent.

        Files are removed one by one: of what S3 refuses to delete in bulk, its client says nothing.
        """
        files = self._do("listed", path, self.fs.find)
        if not self.is_local:
            lag.note_removed(self._uri_of(path))
        for file in sorted(files, key=lambda file: not file.endswith(f"/{MANIFEST}")):
            with suppress(FileNotFoundError):
                self._persist("removed", join(self.uri, path), partial(self.fs.rm_file, file))
        if not self._is_s3 and self._do("read", path, self.fs.isdir):  # an object store has none without files
            self._do("removed", path, partial(self.fs.rm, recursive=True))

    def local_file(self, path: str) -> Path:
        """A file of the storage as a local one: itself, or a copy that is made once for a user of a machine, for paths
        whose content never changes. What is in a copy is for the caller to check."""
        if self.is_local:
            return Path(self.full(path))
        key = hashlib.sha256(join(self.uri, path).encode()).hexdigest()[:16]
        copy = private_folder() / key / Path(path).name
        if not copy.exists():
            with said_clearly("written", str(copy)):
                copy.parent.mkdir(exist_ok=True)
            draft = copy.with_name(draft_of(copy.name))
            try:
                self._seen(path, lambda full: self.fs.get_file(full, str(draft)))
                os.replace(draft, copy)
            finally:
                draft.unlink(missing_ok=True)
        return copy

    @property
    def _is_s3(self) -> bool:
        return "s3" in self.fs.protocol

    def _uri_of(self, path: str) -> str:
        return join(self.uri, path) if path else self.uri

    def _note_there(self, path: str) -> None:
        if not self.is_local:
            lag.note_there(self._uri_of(path))

    def _do(self, doing: Doing, path: str, call: Callable[[str], T]) -> T:
        full = self.full(path)
        return self._persist(doing, self._uri_of(path), lambda: call(full))

    def _persist(self, doing: Doing, where: str, call: Callable[[], T]) -> T:
        def fenced() -> T:
            self.check()
            return call()

        return persist(self.fs, doing, where, fenced if doing in ("written", "removed") else call)

    def _seen(self, path: str, call: Callable[[str], T]) -> T:
        """What a read gives. A file that is not found, but that this process has just written or seen, is looked for
        again."""
        while True:
            try:
                found = self._do("read", path, call)
                self._note_there(path)
                return found
            except FileNotFoundError:
                if self.is_local or not lag.awaited(self._uri_of(path)):
                    raise
            time.sleep(lag.LOOK_SECONDS)


class Changed(Exception):
    """A file is not of the version that was to be replaced."""


class Unconditional(Exception):
    """A storage that cannot write on conditions."""


async def _versioned(fs: Any, full: str) -> tuple[bytes, str]:
    """One answer of S3, so that content and version belong together."""
    bucket, key, _ = fs.split_path(full)
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key)
    async with answer["Body"] as body:
        return await body.read(), str(answer["ETag"])
