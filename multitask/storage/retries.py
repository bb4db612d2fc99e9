"""A storage's failures: what may pass is waited out, for some time; what does not is said in one line."""

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
from fsspec.asyn import sync
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from multitask.errors import Overtaken, StorageError, UserError

PATIENCE = 120.0  # seconds for which a storage may fail before it is given up
FIRST_PAUSE = 0.1  # seconds at most, before a call is tried again; the pauses double, each shortened at random
LONGEST_PAUSE = 15.0  # seconds

# HTTP says by status what may pass, S3 some of it by code alone.
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
PASSING_CODES = {
    "ConditionalRequestConflict",  # two conditional writes at the same moment
    *("RequestTimeout", "OperationAborted", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"),
    "NoSuchUpload",  # an upload in parts that was completed, but the answer was lost: begun anew
    *("Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "BandwidthLimitExceeded"),
}
# Credentials that were good until now. S3 says it with 400, others with 401 or 403.
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
FIXED = ("env", "explicit")  # where botocore may have found credentials that cannot change while this process lives
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
EXPIRED = "the credentials have expired: with new ones the same command goes on."
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
    if not PASSING_TYPES.isdisjoint(_names(error)):  # half an answer, say, whatever its status was
        return True
    status, code = answer_of(error)
    if status is not None:
        return status in PASSING_STATUS or code in PASSING_CODES
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in PASSING_ERRNO


def persist(fs: AbstractFileSystem, doing: Doing, where: str, call: Callable[[], T]) -> T:
    """What `call` gives, called again while its failures may pass, with growing pauses.

    A file system has PATIENCE seconds from its first failure since it last answered, whatever is tried meanwhile, so
    that a run whose storage is gone ends once and not after each thing that it still wants to write. An attempt
    itself is not cut off: a large upload may take its time. Credentials that have expired are read again from where
    they came from, for as long. Raises as `said_clearly`.
    """

    expired: list[BaseException] = []

    def may_pass(error: BaseException) -> bool:
        expired[:] = [error] if not is_passing(error) and has_expired(error, fs, where) else []
        return is_passing(error) or (bool(expired) and renewed(fs))

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
        retry=retry_if_exception(may_pass),
        wait=wait_random_exponential(FIRST_PAUSE, LONGEST_PAUSE),
        stop=give_up,
        before_sleep=warn,
        reraise=True,
    )
    with said_clearly(doing, where):
        try:
            result = again(call)
        except Exception as error:
            if expired:
                raise StorageError(f"{where}: cannot be {doing}: {_shown(error)}; {EXPIRED} {LOOK}") from error
            if not is_passing(error):  # a refusal is an answer
                _failing_since.pop(fs, None)
            raise
        _failing_since.pop(fs, None)
        return result


def has_expired(error: BaseException, fs: AbstractFileSystem, where: str) -> bool:
    """Whether credentials were refused that were good until now.

    The answer to a HEAD has no body and so no code: the same is asked once more, by a request whose answer has one.
    """
    status, code = answer_of(error)
    if code in EXPIRED_CODES or status == 401:
        return True
    if status not in (400, 403) or code != str(status) or "s3" not in fs.protocol:
        return False
    try:
        bucket = where.partition("://")[2].partition("/")[0]
        sync(fs.loop, fs._call_s3, "list_objects_v2", Bucket=bucket, MaxKeys=1)
    except Exception as found:
        return answer_of(found)[1] in EXPIRED_CODES
    return False


def renewed(fs: AbstractFileSystem) -> bool:
    """Makes an S3 file system look for its credentials again; False where they cannot have changed."""
    if "s3" not in fs.protocol or fs.key:
        return False
    try:
        fs.connect(refresh=True)
        credentials = sync(fs.loop, fs.session.get_credentials)
    except Exception as error:  # a file that is being rewritten, say
        log.warning("credentials could not be read again: %s", _shown(error))
        return True
    return credentials is None or credentials.method not in FIXED


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


def answer_of(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status and the S3 code that a server answered with; (None, "") where there was no answer.

    botocore's errors hold them, and s3fs's have botocore's as their cause; aiohttp's and gcsfs's say the status. A
    StorageError has the client's own as its cause.
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
