"""What of a storage's failures is waited out, for how long, and how the others are said."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable

import aiohttp
import botocore.exceptions as boto
import pytest
from botocore.parsers import ResponseParserError
from fsspec import AbstractFileSystem
from fsspec.exceptions import FSTimeoutError
from s3fs.errors import translate_boto_error

from multitask.errors import StorageError, UserError
from multitask.storage import retries
from multitask.storage.retries import is_passing, persist, said_clearly

URL = "http://storage:9000"


def answer(status: int, code: str) -> BaseException:
    """What s3fs makes of that answer."""
    facts = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: BaseException = translate_boto_error(boto.ClientError(facts, "PutObject"))
    return error


PASSING = [
    *(answer(503, "SlowDown"), answer(503, "ServiceUnavailable"), answer(503, "503"), answer(500, "InternalError")),
    *(answer(502, "502"), answer(504, "504"), answer(429, "TooManyRequests"), answer(400, "RequestTimeout")),
    *(answer(409, "OperationAborted"), answer(400, "IncompleteBody"), answer(404, "NoSuchUpload")),
    boto.EndpointConnectionError(endpoint_url=URL),
    boto.ConnectionClosedError(endpoint_url=URL),
    boto.ReadTimeoutError(endpoint_url=URL),
    boto.ConnectTimeoutError(endpoint_url=URL),
    boto.HTTPClientError(error=OSError("reset")),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ResponseParserError("not XML"),
    aiohttp.ClientPayloadError("not enough data"),
    aiohttp.ServerDisconnectedError(),
    FSTimeoutError(),
    TimeoutError(),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    socket.gaierror(socket.EAI_AGAIN, "name resolution"),
    OSError(errno.EHOSTUNREACH, "no route"),
]
FINAL = [
    *(answer(404, "NoSuchKey"), answer(404, "NoSuchBucket"), answer(403, "AccessDenied"), answer(403, "403")),
    *(answer(400, "InvalidArgument"), answer(401, "Unauthorized"), answer(403, "QuotaExceeded")),
    *(answer(403, "ExpiredToken"), answer(501, "NotImplemented")),
    boto.NoCredentialsError(),
    boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    boto.ParamValidationError(report="bad bucket name"),
    FileNotFoundError("x"),
    PermissionError(errno.EACCES, "no"),
    OSError(errno.ENOSPC, "full"),
    ValueError("x"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass(error: BaseException) -> None:
    assert is_passing(error)


@pytest.mark.parametrize("error", FINAL, ids=repr)
def test_what_does_not_pass(error: BaseException) -> None:
    assert not is_passing(error)


class Somewhere(AbstractFileSystem):
    cachable = False


@pytest.fixture
def fs(monkeypatch: pytest.MonkeyPatch) -> Somewhere:
    """A file system of its own, given up after half a second."""
    monkeypatch.setattr(retries, "PATIENCE", 0.5)
    monkeypatch.setattr(retries, "LONGEST_PAUSE", 0.01)
    return Somewhere()


def failing(times: int, error: BaseException) -> Callable[[], str]:
    left = [times]

    def call() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise error
        return "done"

    return call


def test_failures_that_pass_cost_few_warnings(fs: Somewhere, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert persist(fs, "read", "s3://b/x", failing(9, answer(503, "SlowDown"))) == "done"
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition(", ")[0] for message in messages] == [
        f"s3://b/x: not read at attempt {count}" for count in (1, 2, 4, 8)
    ]
    assert all("SlowDown" in message for message in messages)


def test_patience_is_the_storages_not_the_calls(fs: Somewhere) -> None:
    """What is tried after it was given up is tried once, until it answers again."""
    endless = failing(10**9, answer(500, "InternalError"))
    with pytest.raises(StorageError, match=r"s3://b/x: cannot be written: .*InternalError; the storage has failed for"):
        persist(fs, "written", "s3://b/x", endless)
    with pytest.raises(StorageError):
        persist(fs, "written", "s3://b/y", failing(1, answer(500, "InternalError")))
    assert persist(fs, "read", "s3://b/y", failing(0, OSError())) == "done"
    assert persist(fs, "written", "s3://b/y", failing(1, answer(500, "InternalError"))) == "done"


def test_a_refusal_is_an_answer(fs: Somewhere) -> None:
    with pytest.raises(StorageError):
        persist(fs, "written", "s3://b/x", failing(10**9, TimeoutError()))
    with pytest.raises(FileNotFoundError):
        persist(fs, "read", "s3://b/x", failing(1, FileNotFoundError("x")))
    assert persist(fs, "written", "s3://b/x", failing(1, TimeoutError())) == "done"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (answer(403, "AccessDenied"), "permission is missing. minibert doctor --storage URI"),
        (answer(404, "NoSuchBucket"), "bucket or folder it should lie in is not there: make it"),
        (boto.NoCredentialsError(), "Unable to locate credentials; minibert doctor --storage URI"),
        (OSError(errno.ENOSPC, "No space left on device"), "no room is left there: free some"),
    ],
)
def test_a_refused_write_says_where_why_and_what_to_do(fs: Somewhere, error: BaseException, advice: str) -> None:
    with pytest.raises(StorageError) as caught:
        persist(fs, "written", "s3://b/x", failing(1, error))
    message = str(caught.value)
    assert message.startswith(f"s3://b/x: cannot be written: {type(error).__name__}: ")
    assert advice in message and "\n" not in message
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [FileNotFoundError("x"), NotADirectoryError("x")])
def test_what_is_not_there_stays_itself_but_for_a_write(error: OSError) -> None:
    with pytest.raises(type(error)), said_clearly("read", "s3://b/x"):
        raise error
    with pytest.raises(StorageError), said_clearly("written", "s3://b/x"):
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), UserError("x"), KeyboardInterrupt()])
def test_a_mistake_of_this_program_is_not_the_storages(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, said_clearly("written", "s3://b/x"):
        raise error
    assert caught.value is error
