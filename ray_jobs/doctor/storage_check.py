"""What a storage is fit for, and for S3 by which way it is reached."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from multitask.errors import UserError
from multitask.storage.owners import trial
from ray_jobs.doctor.diagnosis import Diagnosis, within
from ray_jobs.doctor.litter import check_litter

if TYPE_CHECKING:
    from multitask.storage.storage import Storage

STORAGE_SECONDS = 30.0  # for all that is asked of a storage
BOTO3_WITH_ENDPOINTS = (1, 28)  # takes AWS_ENDPOINT_URL, as TensorBoard's reader then does


def check_storage(uri: str) -> Iterator[Diagnosis]:
    """Whether a storage can be written, read, listed and removed from, how fast, and for S3 by which way."""
    from multitask.storage.retries import LOOK
    from multitask.storage.storage import Storage

    try:
        storage = Storage(uri)
        if "s3" in storage.fs.protocol:
            yield from within(STORAGE_SECONDS / 2, lambda: list(_s3_findings(storage.fs)))
        with _patience(STORAGE_SECONDS / 3):
            yield from within(STORAGE_SECONDS, lambda: list(_times(storage)))
            yield from within(STORAGE_SECONDS, lambda: list(check_litter(storage)))
    except TimeoutError:
        yield Diagnosis("problem", "storage", f"{uri}: no answer within {STORAGE_SECONDS:g} s: is the endpoint right?")
    except (UserError, FileNotFoundError) as error:
        yield Diagnosis("problem", "storage", str(error).removesuffix(LOOK).rstrip("; "))


def _times(storage: Storage) -> Iterator[Diagnosis]:
    """How long each operation of a storage takes. Raises StorageError and UserError as the storage does."""
    folder, content = storage.at(trial("doctor")), os.urandom(1 << 20)
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
            yield Diagnosis("problem", "storage", f"{storage.uri}: {name}: not what was written a moment before")
        times.append(f"{name} {1000 * (time.monotonic() - began):.0f} ms")
    remark = "; workers on other machines cannot reach it, unless it is shared" if storage.is_local else ""
    yield Diagnosis("ok", "storage", f"{storage.uri}: {', '.join(times)} (1 MiB){remark}")


def _s3_findings(fs: Any) -> Iterator[Diagnosis]:
    """The endpoint and the region in use, where the credentials come from (never what they are), and whether
    TensorBoard will reach the same endpoint."""
    from fsspec.asyn import sync

    try:
        fs.connect()
        credentials = sync(fs.loop, fs.session.get_credentials)
    except Exception as error:  # botocore's many: an unknown profile, a malformed file
        yield Diagnosis("problem", "s3", f"{type(error).__name__}: {error}; see ~/.aws/config and AWS_* variables")
        return
    endpoint = fs.s3.meta.endpoint_url
    yield Diagnosis("ok", "s3", f"endpoint {endpoint}, region {fs.s3.meta.region_name}")
    if fs.key or fs.anon:
        yield Diagnosis("ok", "credentials", "none are sent" if fs.anon else "from fsspec's configuration")
    elif credentials:
        yield Diagnosis("ok", "credentials", f"from {credentials.method}")
    else:
        yield Diagnosis(
            "problem", "credentials", "none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    yield _tensorboard_finding(endpoint)


def _tensorboard_finding(endpoint: str) -> Diagnosis:
    """Whether TensorBoard reaches that endpoint. Its reader has one of its own: S3_ENDPOINT, or what boto3 takes, or
    s3fs where there is no boto3."""
    own = os.environ.get("S3_ENDPOINT")
    boto3 = _version("boto3")
    reader = f"its reader is {f'boto3 {boto3}' if boto3 else 's3fs'}"
    if own and boto3:
        if own.rstrip("/") == endpoint.rstrip("/"):
            return Diagnosis("ok", "tensorboard", f"S3_ENDPOINT is that endpoint; {reader}")
        return Diagnosis("note", "tensorboard", f"S3_ENDPOINT is {own}, another: export S3_ENDPOINT={endpoint}")
    usual = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not usual or not boto3 or tuple(map(int, boto3.split(".")[:2])) >= BOTO3_WITH_ENDPOINTS:
        what = "AWS_ENDPOINT_URL" if usual else "the usual configuration"
        return Diagnosis("ok", "tensorboard", f"S3_ENDPOINT is not set and need not be: {reader}, and takes {what}")
    return Diagnosis("note", "tensorboard", f"{reader}, which needs: export S3_ENDPOINT={endpoint}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Within it, a storage that does not answer is given up after so many seconds, sooner than in a run."""
    from multitask.storage import retries

    before, retries.PATIENCE = retries.PATIENCE, seconds
    try:
        yield
    finally:
        retries.PATIENCE = before
