"""One driver an experiment: `driver.json` says that one is at work, and is renewed as long as it is.

It keeps a second driver out; that a driver thought dead can do no harm is the attempts' part (multitask/experiment.py).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from multitask.errors import UserError
from multitask.storage import Storage

FILE = "driver.json"
BEAT_SECONDS = 10.0
SETTLE_SECONDS = 0.5  # after writing, until the lease is read again: who wrote last of several that start holds it
WATCH_SECONDS = 25.0  # how long a driver elsewhere may be silent before it is taken for dead

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who is at work. machine: where its process id means something. born: tells it from a later process of that id.
    beat: counts up while it lives."""

    id: str
    host: str
    machine: str
    process: int
    born: str
    beat: int = 0


def this_process() -> Holder:
    return Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(), _born(os.getpid()) or "")


def _machine() -> str:
    """The boot and the space of process ids; on systems without /proc nothing that another process has too."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _born(process: int) -> str | None:
    """When a process of this machine started, in the kernel's own count; None where there is none, or a dead one."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if facts[0] in "ZX" else facts[19]


class Lease:
    """Context manager around a driver's work. Raises UserError where another driver is at work on the experiment.

    A driver that was killed on this machine is known to be dead at once; of one elsewhere it is watched for some
    seconds whether it still renews its lease. Clocks are not compared. say: tells the user of the wait.
    """

    def __init__(
        self,
        experiment: Storage,
        say: Callable[[str], None],
        beat: float = BEAT_SECONDS,
        watch: float = WATCH_SECONDS,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self.experiment, self.say, self.beat, self.watch, self.settle = experiment, say, beat, watch, settle
        self.holder = this_process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        other = self._read()
        if other and self._lives(other):
            raise UserError(
                f"experiment {self.experiment.uri}: another driver is at work on it, process {other.process} on "
                f"{other.host}; stop that one, wait for it, or give --experiment another name"
            )
        self._write()
        time.sleep(self.settle)
        found = self._read()
        if found is None or found.id != self.holder.id:
            raise UserError(f"experiment {self.experiment.uri}: another driver was started at the same time; try again")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            found = self._read()
            if found and found.id == self.holder.id:
                self.experiment.remove(FILE)
        except Exception as error:  # the next driver then finds a dead holder
            log.warning("%s/%s not removed: %s", self.experiment.uri, FILE, error)

    def _lives(self, other: Holder) -> bool:
        if other.machine == self.holder.machine:
            return _born(other.process) == other.born
        self.say(
            f"process {other.process} on {other.host} was at work on this experiment; "
            f"waiting {self.watch:.0f} s to see whether it still is ..."
        )
        until = time.monotonic() + self.watch
        while time.monotonic() < until:
            time.sleep(min(1.0, self.watch / 10))
            found = self._read()
            if found is None:
                return False
            if found != other:
                return True
        return False

    def _read(self) -> Holder | None:
        if not self.experiment.exists(FILE):
            return None
        try:
            saved: dict[str, Any] = self.experiment.read_json(FILE)
            return Holder(**saved)
        except (FileNotFoundError, ValueError, TypeError):  # removed meanwhile, or not ours to understand
            return None

    def _write(self) -> None:
        self.experiment.write_json(FILE, asdict(self.holder))

    def _renew(self) -> None:
        while not self._stop.wait(self.beat):
            self.holder = replace(self.holder, beat=self.holder.beat + 1)
            try:
                found = self._read()
                if found and found.id != self.holder.id:
                    log.warning(
                        "%s/%s: process %s on %s drives now", self.experiment.uri, FILE, found.process, found.host
                    )
                    return  # the attempts keep what this one still does from counting
                self._write()
            except Exception as error:  # a storage that fails for a while must not end the training
                log.warning("%s/%s not renewed: %s", self.experiment.uri, FILE, error)
