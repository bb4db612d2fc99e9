"""A fact that `minibert doctor` tells, and how long it waits for what others answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, TypeVar

Severity = Literal["ok", "note", "problem"]
T = TypeVar("T")


@dataclass(frozen=True)
class Diagnosis:
    """One fact about this machine or a storage."""

    verdict: Severity
    """How much it matters: a problem is what will not work, a note what may surprise."""
    subject: str
    fact: str
    """What was found, and what to do about it."""

    def line(self) -> str:
        """The fact as a line of a terminal."""
        return f"{self.verdict:<8} {self.subject:<12} {' '.join(self.fact.split())}"


def within(seconds: float, call: Callable[[], T]) -> T:
    """Returns or raises what the call does. Raises TimeoutError where it takes longer: its thread is left behind."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(seconds)
