"""The requests that change a bucket as a log, and the states that a run which ends after any of them leaves.

An object is there whole or not at all; parts of an upload that was not completed are there and are seen by nobody. A
listing may lag: for some time it shows what was there before the last changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any, Literal

NAME = "crash"
URI = f"s3://{NAME}/"
CHUNK = 1 << 18  # bytes of a part, so that the tiny encoder's weights need several
LAG = 0.5  # seconds until a listing shows a change
LAGGING = (1, 2, 4, 8)  # changes that listings do not show yet when the command is given again
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "never-shown",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


@dataclass(frozen=True)
class Change:
    """key: of the object. upload: of which a part came, or which was begun or ended."""

    kind: Literal["put", "delete", "begin", "part", "end"]
    key: str
    data: bytes = b""
    upload: str = ""
    number: int = 0


@dataclass(frozen=True)
class Left:
    """lag: how many of the changes the first listings do not show; none where they show all."""

    kind: Literal["cut off", "lagging"]
    after: int
    lag: int = 0


@dataclass
class Changes:
    """before: the objects that were there."""

    before: dict[str, bytes] = field(default_factory=dict)
    operations: list[Change] = field(default_factory=list)

    def objects(self, after: int) -> dict[str, bytes]:
        found = dict(self.before)
        for change in self.operations[:after]:
            if change.kind == "put":
                found[change.key] = change.data
            elif change.kind == "delete":
                found.pop(change.key, None)
        return found

    def uploads(self, after: int) -> dict[str, tuple[str, dict[int, bytes]]]:
        """Uploads in parts that were begun and not completed: key and parts."""
        found: dict[str, tuple[str, dict[int, bytes]]] = {}
        for change in self.operations[:after]:
            if change.kind == "begin":
                found[change.upload] = (change.key, {})
            elif change.kind == "part":
                found[change.upload][1][change.number] = change.data
            elif change.kind == "end":
                found.pop(change.upload, None)
        return found

    def states(self, random_: random.Random) -> Iterator[Left]:
        """Each end, and each with listings that lag; different ones alone."""
        seen: set[str] = set()
        for after in range(len(self.operations) + 1):
            lags = [min(lag, after) for lag in LAGGING]
            for state in (Left("cut off", after), *(Left("lagging", after, lag) for lag in lags if lag)):
                if (found := self.digest(state)) not in seen:
                    seen.add(found)
                    yield state

    def digest(self, state: Left) -> str:
        found = hashlib.sha256()
        for key, data in sorted(self.objects(state.after).items()):
            found.update(f"{key} {hashlib.sha256(data).hexdigest()}\n".encode())
        for key, parts in sorted(self.uploads(state.after).values()):
            found.update(f"upload of {key}: {sorted(parts)}\n".encode())
        listed = set(self.objects(state.after - state.lag))
        if listed != set(self.objects(state.after)):
            found.update(f"listed: {sorted(listed)}".encode())
        return found.hexdigest()

    def build(self, state: Left, folder: Path) -> Callable[[], None]:
        """Serves a bucket in that state from this process, for as long as it lives. What ends the lag is returned."""
        server = Server()
        server.fill(self.objects(state.after), self.uploads(state.after), self.objects(state.after - state.lag))
        return server.settle

    def told(self, state: Left) -> str:
        last = self.operations[state.after - 1] if state.after else None
        done = f"{last.kind} {last.key}" if last else "the beginning"
        return f"{state.kind} after {state.after} ({done})" + (f", listings lag by {state.lag}" if state.lag else "")


class Server:
    """moto's, in this process, with the bucket. changes: what came since it was filled."""

    def __init__(self) -> None:
        os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3 import models
        from moto.server import ThreadedMotoServer
        from s3fs import S3FileSystem

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        os.environ |= {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        models.S3_UPLOAD_PART_MIN_SIZE = 1  # type: ignore[attr-defined]
        for put in ("_put_file", "_pipe_file"):
            setattr(S3FileSystem, put, partialmethod(getattr(S3FileSystem, put), chunksize=CHUNK))
        self.backend: Any = models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        self.backend.create_bucket(NAME, "us-east-1")
        self.changes = Changes()
        self._shown: list[tuple[float, dict[str, Any]]] = []  # when, and what lay there
        self.lags = False

    def fill(
        self,
        objects: Mapping[str, bytes],
        uploads: Mapping[str, tuple[str, Mapping[int, bytes]]],
        listed: Mapping[str, bytes],
    ) -> None:
        """listed: the objects that listings show at first."""
        for key, data in {**listed, **objects}.items():
            self.backend.put_object(NAME, key, data)
        stale = {key: _kept(self._keys[key]) for key in listed}
        for key in set(listed) - set(objects):
            self.backend.delete_object(NAME, key)
        for key, parts in uploads.values():
            upload = self.backend.create_multipart_upload(NAME, key, {}, "STANDARD", {}, None, "", "")
            for number, data in parts.items():
                self.backend.upload_part(NAME, upload.id, number, data)
        self.changes = Changes(dict(objects))
        self.lags = lags = set(listed) != set(objects)
        there = {key: _kept(found) for key, found in self._keys.items()}
        self._shown = [(0.0, stale), (time.monotonic() if lags else 0.0, there)]
        self._watch(lags)

    def settle(self) -> None:
        self.lags = False

    @property
    def _keys(self) -> Any:
        return self.backend.get_bucket(NAME).keys

    def _watch(self, lags: bool) -> None:
        kind = type(self.backend)
        for name, note in {
            "put_object": self._put,
            "delete_object": self._delete,
            "create_multipart_upload": self._begin,
            "upload_part": self._part,
            "complete_multipart_upload": self._end,
            "abort_multipart_upload": self._end,
        }.items():
            setattr(kind, name, self._noted(getattr(kind, name), note))
        if lags:
            kind.list_objects = self._listing(kind.list_objects)

    def _noted(self, call: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def noted(backend: Any, *words: Any, **options: Any) -> Any:
            result = call(backend, *words, **options)
            note(result, *words, **options)
            return result

        return noted

    def _listing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def listing(backend: Any, bucket: Any, *words: Any, **options: Any) -> Any:
            until = time.monotonic() - (LAG if self.lags else 0.0)
            shown = next(keys for when, keys in reversed(self._shown) if when <= until)
            return call(backend, _Listed(shown), *words, **options)

        return listing

    def _note(self, change: Change) -> None:
        self.changes.operations.append(change)
        if change.kind in ("put", "delete"):
            there = {key: found for key, found in self._shown[-1][1].items() if key != change.key}
            if change.kind == "put":
                there[change.key] = _kept(self._keys[change.key])
            self._shown.append((time.monotonic(), there))

    def _put(self, result: Any, bucket_name: str, key_name: str, value: bytes, *_: Any, **__: Any) -> None:
        self._note(Change("put", key_name, bytes(value)))

    def _delete(self, result: Any, bucket_name: str, key_name: str, *_: Any, **__: Any) -> None:
        self._note(Change("delete", key_name))

    def _begin(self, result: Any, bucket_name: str, key_name: str, *_: Any, **__: Any) -> None:
        self._note(Change("begin", key_name, upload=result.id))

    def _part(self, result: Any, bucket_name: str, multipart_id: str, part_id: int, value: bytes) -> None:
        self._note(Change("part", "", bytes(value), multipart_id, int(part_id)))

    def _end(self, result: Any, bucket_name: str, multipart_id: str, *_: Any, **__: Any) -> None:
        self._note(Change("end", "", upload=multipart_id))


def _kept(key: Any) -> Any:
    """An object's copy, which a listing can tell of when the object is gone."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import FakeKey

    copy = FakeKey(key.name, key.value, DEFAULT_ACCOUNT_ID, "us-east-1")
    copy.last_modified = key.last_modified
    return copy


@dataclass(frozen=True)
class _Listed:
    """A bucket as moto's listing asks it."""

    keys: dict[str, Any]


def recorded(prepare: Callable[[], None], work: Callable[[], None], file: Path) -> None:
    """In a child: a bucket as `prepare` leaves it, and the changes that `work` makes there, into that file."""
    server = Server()
    server.fill({}, {}, {})
    prepare()
    before = server.changes
    server.changes = Changes(before.objects(len(before.operations)))
    work()
    file.write_bytes(pickle.dumps(server.changes))
