"""A storage's failures: those that pass are waited out, for so long; the others are said in one line."""

from __future__ import annotations

import errno
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from fsspec import AbstractFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from multitask.errors import Overtaken, StorageError, UserError

PATIENCE = 120.0  # seconds for which a storage may fail before it is given up
LONGEST_PAUSE = 15.0  # seconds; the pauses begin at up to one second and double, each shortened at random

# HTTP says by status what may pass, S3 some of it by code alone.
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
PASSING_CODES = {
    *("RequestTimeout", "OperationAborted", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),
    "NoSuchUpload",  # an upload in parts that was completed, but the answer was lost: begun anew
    *("Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "BandwidthLimitExceeded"),
}
# Where no answer is at hand: what s3fs makes of 409 and 503, of 500, and of what it does not know; no route, no name.
PASSING_ERRNO = {
    *(errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO), errno.EIO),
    *(errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),
}
# The clients' own errors by name, base classes too: none of these libraries has to be there.
PASSING_TYPES = {
    "socket.gaierror",
    "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.IncompleteReadError",
    "botocore.exceptions.CredentialRetrievalError",  # a machine's own metadata service did not answer
    "botocore.exceptions.FlexibleChecksumError",
    "botocore.parsers.ResponseParserError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "gcsfs.retry.ChecksumError",
    "google.auth.exceptions.TransportError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "requests.exceptions.ChunkedEncodingError",
}
LOOK = "minibert doctor --storage URI says more"
ADVICE = {
    errno.ENOSPC: "no room is left there: free some",
    errno.EDQUOT: "the quota is used up: free some room",
    errno.EFBIG: "files there may not be that large",
    errno.EROFS: "it can only be read: name another place",
}

Doing = Literal["written", "read", "listed", "removed"]
T = TypeVar("T")
log = logging.getLogger(__name__)
_failing_since: WeakKeyDictionary[AbstractFileSystem, float] = WeakKeyDictionary()


def is_passing(error: BaseException) -> bool:
    """Whether the same call may go well later: throttling, a server's own failure, a lost connection, a timeout."""
    status, code = _answer(error)
    if status is not None:
        return status in PASSING_STATUS or code in PASSING_CODES
    if isinstance(error, TimeoutError | ConnectionError) or not PASSING_TYPES.isdisjoint(_names(error)):
        return True
    return isinstance(error, OSError) and error.errno in PASSING_ERRNO


def persist(fs: AbstractFileSystem, doing: Doing, where: str, call: Callable[[], T]) -> T:
    """What `call` gives, called again while its failures may pass, with growing pauses.

    A file system has PATIENCE seconds from its first failure since it last answered, whatever is tried meanwhile, so
    that a run whose storage is gone ends once and not after each thing that it still wants to write. An attempt
    itself is not cut off: a large upload may take its time. Raises as `said_clearly`.
    """

    failing = math.inf  # since when, by this call's own count: a fence before each attempt is read from the same fs

    def give_up(state: RetryCallState) -> bool:
        nonlocal failing
        failing = min(failing, _failing_since.setdefault(fs, time.monotonic()))
        return time.monotonic() - failing >= PATIENCE

    def warn(state: RetryCallState) -> None:
        attempt, error = state.attempt_number, state.outcome.exception() if state.outcome else None
        if attempt & (attempt - 1) == 0:  # the 1st, 2nd, 4th, 8th: no flood
            log.warning("%s: not %s at attempt %d, trying again: %s", where, doing, attempt, _shown(error))

    again = Retrying(
        retry=retry_if_exception(is_passing),
        wait=wait_random_exponential(max=LONGEST_PAUSE),
        stop=give_up,
        before_sleep=warn,
        reraise=True,
    )
    with said_clearly(doing, where):
        try:
            result = again(call)
        except Exception as error:
            if not is_passing(error):  # a refusal is an answer
                _failing_since.pop(fs, None)
            raise
        _failing_since.pop(fs, None)
        return result


@contextmanager
def said_clearly(doing: Doing, where: str) -> Iterator[None]:
    """Raises StorageError for what a storage's client raises; that something is not there stays FileNotFoundError
    (or NotADirectoryError), but for a write."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if doing != "written":
            raise
        raise _said(doing, where, error) from error
    except OSError as error:
        raise _said(doing, where, error) from error
    except Exception as error:
        if type(error).__module__ == "builtins" or isinstance(error, UserError | Overtaken):
            raise  # a mistake of this program, or said already
        raise _said(doing, where, error) from error


def _said(doing: Doing, where: str, error: Exception) -> StorageError:
    return StorageError(f"{where}: cannot be {doing}: {_shown(error)}; {_advice(error)}")


def _advice(error: Exception) -> str:
    if is_passing(error):
        return f"the storage has failed for {PATIENCE:g} s or more; when it answers, the same command goes on. {LOOK}"
    if isinstance(error, FileNotFoundError):
        return f"the bucket or folder it should lie in is not there: make it, or name another. {LOOK}"
    if isinstance(error, PermissionError):
        return f"permission is missing. {LOOK}"
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors' way to pass an errno on
    return ADVICE.get(int(told[1]) if told else getattr(error, "errno", None) or 0, LOOK)


def _shown(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _names(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def _answer(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status and the S3 code that a server answered with; (None, "") where there was no answer.

    botocore's errors hold them, and s3fs's have botocore's as their cause; aiohttp's and gcsfs's say the status.
    """
    cause: BaseException | None = error
    while cause is not None:
        response: Any = getattr(cause, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status, str(response.get("Error", {}).get("Code", ""))
        status = str(getattr(cause, "status", None) or getattr(cause, "code", None))
        if status.isdecimal():
            return int(status), ""
        cause = cause.__cause__
    return None, ""
