"""One driver an experiment: `driver.json` says that one is at work, and is renewed as long as it is.

It keeps a second driver out; that a driver thought dead can do no harm is the part of attempts (experiment_file.py).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from multitask.errors import UserError
from multitask.storage import lag
from multitask.storage.owners import born as _born
from multitask.storage.owners import machine as _machine
from multitask.storage.storage import Changed, Storage, Unconditional

FILE = "driver.json"
BEAT_SECONDS = 10.0
SETTLE_SECONDS = 0.5  # after writing, until the lease is read again: who wrote last of several that start holds it
WATCH_SECONDS = 25.0  # how long a driver elsewhere may be silent before it is taken for dead

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Which driver is at work."""

    id: str
    host: str
    machine: str
    """The boot and space of process ids in which `process` means something."""
    process: int
    born: str
    """When the process started, which tells it from a later one of that id."""
    beat: int = 0
    """A count that goes up as long as the driver lives."""


def this_process() -> Holder:
    return Holder(uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(), _born(os.getpid()) or "")


class Lease:
    """Context manager around a driver's work. Raises UserError where another driver is at work on the experiment.

    A driver that was killed on this machine is known to be dead at once; of one elsewhere it is watched for some
    seconds whether it still renews its lease. Clocks are not compared. say: tells the user of the wait.

    It is taken, renewed and taken over by conditional writes where the storage has them: one of several that try at the
    same time gets it, and a read that is behind gives nobody a lease that another one holds. Elsewhere the last one
    to write has it, once `settle` seconds are over. meanwhile: what can be done in them.
    """

    def __init__(
        self,
        experiment: Storage,
        say: Callable[[str], None],
        beat: float = BEAT_SECONDS,
        watch: float = WATCH_SECONDS,
        settle: float = SETTLE_SECONDS,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.experiment, self.say, self.beat, self.watch, self.settle = experiment, say, beat, watch, settle
        self.meanwhile = meanwhile
        self.holder = this_process()
        self._before: set[str] = set()  # who was seen to hold it before: a read that is behind may show them again
        self._version: str | None = None  # of driver.json as this one wrote it; None where writes know no conditions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        try:
            self._take()
        except BaseException:  # of a process that lives on, as a notebook's does
            with suppress(Exception):
                if (found := self._read()) and found.id == self.holder.id:
                    self.experiment.remove(FILE)
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            if self._renewed():
                self.experiment.remove(FILE)
        except Exception as error:  # the next driver then finds a dead holder
            log.warning("%s/%s not removed: %s", self.experiment.uri, FILE, error)

    def _take(self) -> None:
        until = time.monotonic() + lag.SECONDS
        while True:
            found, version = self._look()
            if found and found.id == self.holder.id:  # the answer to this one's own write was lost
                self._version = version
                return
            if found and self._lives(found):
                raise UserError(
                    f"experiment {self.experiment.uri}: another driver is at work on it, process {found.process} on "
                    f"{found.host}; stop that one, wait for it, or give --experiment another name"
                )
            self._before |= {found.id} if found else set()
            try:
                self._version = self.experiment.replace(FILE, self._content(), version)
                break
            except Unconditional:
                return self._settle()
            except Changed:  # what was seen is old, or another one was quicker
                if time.monotonic() > until:
                    raise self._beaten() from None
            time.sleep(min(lag.LOOK_SECONDS, self.beat))
        try:  # a server that knows conditions refuses this; one that ignores them has not kept this one alone
            self.experiment.replace(FILE, self._content(), None)
        except (Changed, Unconditional):
            return
        self._version = None
        self._settle()

    def _settle(self) -> None:
        """Decides between several drivers that start at once on a storage without conditional writes: whoever wrote
        last has the lease."""
        self._write()
        settled = time.monotonic() + self.settle
        self.meanwhile()
        time.sleep(max(0.0, settled - time.monotonic()))
        until = time.monotonic() + (0.0 if self.experiment.is_local else lag.SECONDS)
        while (found := self._read()) is None or found.id in self._before:  # reads lag behind writes
            if time.monotonic() > until:
                break
            time.sleep(lag.LOOK_SECONDS)
        if found is None or found.id != self.holder.id:
            raise self._beaten()

    def _beaten(self) -> UserError:
        return UserError(f"experiment {self.experiment.uri}: another driver was started at the same time; try again")

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
        return self._look()[0]

    def _look(self) -> tuple[Holder | None, str | None]:
        """Who holds the lease, and the version of the file that says so; None where there is no file."""
        try:
            content, version = self.experiment.read_version(FILE)
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        try:
            return Holder(**json.loads(content)), version
        except (ValueError, TypeError):  # not ours to understand
            return None, version

    def _content(self) -> bytes:
        return json.dumps(asdict(self.holder), indent=2).encode()

    def _write(self) -> None:
        self.experiment.write_bytes(FILE, self._content())

    def _renewed(self) -> bool:
        """Writes the lease again; False where another driver holds it now."""
        self.holder = replace(self.holder, beat=self.holder.beat + 1)
        if self._version is not None:
            try:
                self._version = self.experiment.replace(FILE, self._content(), self._version)
                return True
            except Changed:
                pass
        found, version = self._look()
        if found and found.id not in {self.holder.id, *self._before}:
            log.warning("%s/%s: process %s on %s drives now", self.experiment.uri, FILE, found.process, found.host)
            return False  # the attempts keep what this one still does from counting
        if self._version is None:
            self._write()
        else:  # the answer to the write before was lost; or removed by hand
            self._version = self.experiment.replace(FILE, self._content(), version)
        return True

    def _renew(self) -> None:
        while not self._stop.wait(self.beat):
            try:
                if not self._renewed():
                    return
            except Exception as error:  # a storage that fails for a while must not end the training
                log.warning("%s/%s not renewed: %s", self.experiment.uri, FILE, error)


def is_over(storage: Storage, path: str, age: float) -> bool:
    """Whether the lease at that path is a dead driver's: its process is no more, or it was not renewed for long.

    age: seconds since the file was written, by the storage's clock.
    """
    try:
        holder = Holder(**json.loads(storage.read_bytes(path)))
    except (FileNotFoundError, ValueError, TypeError):
        return False
    if holder.machine == _machine():
        return _born(holder.process) != holder.born
    return age > 10 * WATCH_SECONDS
