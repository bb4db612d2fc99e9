"""How workers end: what died, in one line, and whether a start of new ones may end otherwise; and what they warn of."""

from __future__ import annotations

import logging
import os
import re
import socket
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from multitask.storage.retries import is_passing
from ray_jobs.logs import PACKAGES

log = logging.getLogger(__name__)

# Of what Ray says of a worker that is gone -> what that means. The first that fits.
DEATHS = {
    r"memory pressure|low on memory|OutOfMemory": "killed by Ray: its machine has run out of memory",
    r"SIGTERM": "ended by SIGTERM",
    r"node has died|node is dead|NodeDied|node was (?:terminated|preempted|drained)": "lost with its machine",
    r"connection error code 2|End of file|unexpected system error": (
        "killed by SIGKILL, as the kernel does when memory runs out, or crashed"
    ),
}
LOST = {
    f"ray.exceptions.{name}" for name in ("RayActorError", "OutOfMemoryError", "NodeDiedError", "WorkerCrashedError")
}
# Other ranks' symptoms, and what a network does: another start may go well.
PASSING_KINDS = {
    *("DistNetworkError", "DistStoreError", "DistBackendError", "RayActorError", "ActorDiedError"),
    *("ActorUnavailableError", "GetTimeoutError", "ObjectLostError", "WorkerHealthCheckTimeoutError"),
    *("CollectiveTimeoutError", "BroadcastCollectiveTimeoutError", "NodeDiedError", "PreemptionError"),
}
PASSING_WORDS = re.compile(
    r"Connection (?:reset|closed|refused)|Broken pipe|[Tt]imed? ?out|gloo/transport|NCCL (?:error|WARN)", re.ASCII
)
LONGEST = 500  # characters of an error's own words


@dataclass(frozen=True)
class End:
    """How one rank of one start of workers ended."""

    rank: int
    what: str
    """What happened, in one line."""
    kind: str = ""
    """The error's type, empty where the process died without one."""
    message: str = ""
    """The error's message, empty where the process died without one."""
    cause: str = ""
    """What tells the error from others at the next start, without numbers that differ each time; empty where it may
    pass."""
    trace: str = ""
    """The error's traceback."""

    @classmethod
    def of(cls, rank: int, error: BaseException, trace: str = "", place: str = "") -> End:
        """The end of a rank by an error that was raised there or told by Ray. place: its process and host, if known."""
        inner = getattr(error, "health_check_failure", error)  # Ray's: the process does not answer any more
        if how := _death(inner):
            return cls(rank, f"rank {rank}{_place_of(str(inner))} was {how}", trace=trace)
        kind, message = type(error).__name__, " ".join(str(error).split())
        cause = "" if _may_pass(error) else re.sub(r"0x[0-9a-f]+|\d+", "#", f"{kind}: {message}")
        if len(message) > LONGEST:
            message = f"{message[:LONGEST]} ..."
        return cls(rank, f"rank {rank}{place}: {kind}: {message}".removesuffix(": "), kind, message, cause, trace)


def _may_pass(error: BaseException) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if is_passing(error) or kinds & PASSING_KINDS:
        return True
    return isinstance(error, RuntimeError | OSError) and PASSING_WORDS.search(str(error)) is not None


def _death(error: BaseException) -> str | None:
    """Says what became of a process that Ray has lost; None for an error that was raised."""
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    if not names & LOST:
        return None
    return next((how for sign, how in DEATHS.items() if re.search(sign, str(error))), "lost without a word")


def _place_of(told: str) -> str:
    """The process and the host that Ray's words name, in brackets; empty where they name none."""
    found = {name: match[1] for name in ("pid", "ip") if (match := re.search(rf"\b{name}: (\S+)", told))}
    where = f" on {found['ip']}" if "ip" in found else ""
    return f" (pid {found['pid']}{where})" if "pid" in found else where


def first(ends: list[End]) -> End:
    """The end that the others follow from: a death, else an error that does not pass, else the lowest rank's."""
    return min(ends, key=lambda end: (bool(end.kind), not end.cause, end.rank))


@contextmanager
def noted(board: Any, label: str, rank: int) -> Iterator[None]:
    """Goes around a rank's work, whose error is told to the board in its own words before Ray hears of it."""
    import ray

    try:
        yield
    except Exception as error:
        place = f" (pid {os.getpid()} on {socket.gethostname()})"
        ray.get(board.note.remote(label, End.of(rank, error, traceback.format_exc(), place)))
        raise


def watcher(board: Any, label: str) -> Any:
    """Ray Train's callback, in the process that starts the workers: tells the board how those of a start ended."""
    import ray
    from ray.train import UserCallback

    class Watcher(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            ends = [End.of(rank, error) for rank, error in worker_exceptions.items()]
            # Where a machine is being taken away, Ray calls again and again until all its workers are gone.
            inner = [getattr(error, "health_check_failure", error) for error in worker_exceptions.values()]
            leaving = any(getattr(error, "preempted", False) for error in inner)
            if not ray.get(board.ended.remote(label, ends, leaving)):
                raise RuntimeError("another start would end as this one did")  # Ray then makes none

    return Watcher()


class _ToBoard(logging.Handler):
    def __init__(self, board: Any) -> None:
        super().__init__(logging.WARNING)
        self.board = board

    def emit(self, record: logging.LogRecord) -> None:
        self.board.say.remote(record.getMessage())


@contextmanager
def telling(board: Any) -> Iterator[None]:
    """Within it, in a process of Ray's, what this project's modules warn of goes to the driver."""
    handler = _ToBoard(board)
    for name in PACKAGES:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(handler)


def pass_on(said: list[str], ends: list[End]) -> None:
    """Tells, in the driver, the workers' warnings to the user and the log, and their tracebacks to the log alone."""
    for text in said:
        log.warning("%s", text)
    for end in ends:
        log.info("%s", f"{end.what}\n{end.trace}".rstrip())
