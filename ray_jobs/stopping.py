"""Ctrl-C and SIGTERM: once asks the stage to save and stop, twice stops at once. A terminal that goes away asks too.
All leave a resumable experiment."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

INTERRUPTED = 130
WAITER = "fit"  # the thread that waits for Ray's workers
# Beginnings of the names of Ray Data's threads. It waits 2 s for its first one when its work is given up.
RAY_DATA = ("StreamingExecutor-", "map_tp_", "iter_threaded", "Prefetcher")


def waits_for_ray() -> bool:
    """Whether threads still wait for Ray's workers, of a stage or of Ray Data's work that was given up.

    Ray ends the whole process, at once and with status 1, when a thread calls it after `ray.shutdown()`: where this is
    true, nothing is shut down and the process ends itself. Ray's own processes end with it.
    """
    return any(thread.name == WAITER or thread.name.startswith(RAY_DATA) for thread in threading.enumerate())


class StopRequest:
    """The user's request to stop, as a context manager around the stages; `asked` turns true at the first signal."""

    def __init__(self, how_to_go_on: str) -> None:
        self.how_to_go_on = how_to_go_on
        self.asked = False
        self._signalled = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self  # which alone has signals
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hang_up)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            self.at_once()
        self.asked = self._signalled = True
        os.write(2, b"\nstopping after this step (again to stop at once) ...\n")

    def at_once(self) -> None:
        """Ends the process. What is written is complete or absent, so nothing is lost but the steps since the last
        checkpoint."""
        os.write(2, f"\nstopped. {self.how_to_go_on}\n".encode())
        os._exit(INTERRUPTED)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """Asks to stop when the terminal is gone, with an ssh session, say; shells tell of it more than once.

        What would be written to it goes nowhere: to write there would fail, and end the run before it has saved.
        """
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        self.asked = True
