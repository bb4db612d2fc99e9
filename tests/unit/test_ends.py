"""How workers end, in one line each, by what Ray 2.60 says of them."""

from __future__ import annotations

import botocore.exceptions as boto
import pytest
import torch
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from multitask.errors import StorageError
from ray_jobs.runners.ends import End, first

HEAD = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tpid: 7742\n\tip: 10.0.0.2"
)
KILLED = "Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file."
TERMINATED = "Worker exit detail: Worker exits by an unexpected SIGTERM."
NODE = "The actor died because its node has died. Node Id: 1f. the actor's node was terminated unexpectedly"


def died(detail: str) -> WorkerHealthCheckFailedError:
    error = ActorDiedError()
    error.error_msg = f"{HEAD}\nThe actor is dead because its worker process has died. {detail}"
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=error)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (died(KILLED), "was killed by SIGKILL, as the kernel does when memory runs out, or crashed"),
        (died(TERMINATED), "was ended by SIGTERM"),
        (died(NODE), "was lost with its machine"),
        (died("A word of a later Ray."), "was lost without a word"),
    ],
)
def test_a_process_that_is_gone_is_named_with_what_took_it(error: Exception, what: str) -> None:
    end = End.of(1, error)
    assert end.what == f"rank 1 (pid 7742 on 10.0.0.2) {what}"
    assert (end.kind, end.cause) == ("", ""), "it may go better at the next start"


def test_memory_that_ran_out_on_rays_watch() -> None:
    error = WorkerHealthCheckFailedError("A worker health check failed.", failure=OutOfMemoryError("memory pressure"))
    assert End.of(0, error).what == "rank 0 was killed by Ray: its machine has run out of memory"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("no answer"),
        ConnectionRefusedError("no"),
        boto.EndpointConnectionError(endpoint_url="http://storage:9000"),
        torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp"),
        torch.distributed.DistNetworkError("The client socket has timed out after 60000ms"),
        RuntimeError("[pair.cc:537] Read error [127.0.0.1]:6044: Connection reset by peer."),
        RuntimeError("Timed out waiting 1800000ms for recv operation to complete"),
    ],
    ids=repr,
)
def test_what_may_pass(error: Exception) -> None:
    assert End.of(0, error).cause == ""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected 3 classes"),
        ValueError("timeout is to be above 0"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x5 and 6x7)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        ModuleNotFoundError("No module named 'x'"),
        MemoryError(),
        StorageError("s3://b: cannot be written: permission is missing"),
    ],
    ids=repr,
)
def test_what_would_come_again(error: Exception) -> None:
    end = End.of(2, error)
    assert end.cause.startswith(type(error).__name__) and end.what.startswith(f"rank 2: {type(error).__name__}")


def test_an_error_is_the_same_with_other_numbers_and_one_line_of_some_length() -> None:
    one, other = (
        End.of(0, ValueError(f"row {n}\nof {n + 1} <object at 0x{n:x}> " + "x" * 900)) for n in (41, 1_000_003)
    )
    assert one.cause == other.cause and one.what != other.what
    assert "\n" not in one.what and len(one.what) < 600


def test_a_death_comes_before_an_error_and_that_before_its_symptom() -> None:
    symptom, cause, death = End.of(0, ConnectionResetError("x")), End.of(1, ValueError("x")), End(2, "killed")
    assert first([symptom, cause, death]) is death
    assert first([symptom, cause]) is cause
    assert first([symptom, End.of(1, TimeoutError())]) is symptom
