"""The driver's log: written locally while it runs, copied into the experiment when it ends, however it ends."""

from __future__ import annotations

import logging
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from multitask.errors import Overtaken, PlainFormatter
from multitask.experiment.fence import EXPERIMENT_FILE
from multitask.storage.owners import kept_in
from multitask.storage.storage import Fence, Storage

PACKAGES = ("multitask", "lightning_modules", "ray_jobs")


class DriverLog:
    """The log of a driver, as a context manager around its work; an exception that passes goes in with its traceback.

    path: where it will lie in the experiment. fence: the driver's, once there is one: the log of a driver that was
    superseded is not copied.
    """

    def __init__(self, experiment: Storage) -> None:
        self.experiment = experiment
        self.fence: Fence = lambda: None
        self.path = f"logs/driver-{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}.log"
        self._folder = tempfile.TemporaryDirectory(prefix=kept_in("log"))
        self._file = Path(self._folder.name) / "driver.log"

    def __enter__(self) -> DriverLog:
        self._handler = logging.FileHandler(self._file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._console = logging.StreamHandler()
        self._console.setFormatter(PlainFormatter())
        self._console.setLevel(logging.WARNING)  # a checkpoint passed over, say: the user should see it at once
        for name in PACKAGES:
            logging.getLogger(name).addHandler(self._handler)
            logging.getLogger(name).addHandler(self._console)
            logging.getLogger(name).setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in PACKAGES:  # the one line that the user sees of an error is the command line's
            logging.getLogger(name).removeHandler(self._console)
        if error is not None:
            logging.getLogger(__name__).error("ended by %s", type(error).__name__, exc_info=error)
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()
        try:
            if self.experiment.exists(EXPERIMENT_FILE):  # what was refused before it began leaves nothing
                Storage(self.experiment.uri, self.fence).write_bytes(self.path, self._file.read_bytes())
        except Overtaken:
            pass  # the error that is on its way says so
        except Exception as failure:  # must not hide how the run itself ended
            print(f"log not copied to {self.experiment.uri}: {failure}", file=sys.stderr)
        self._folder.cleanup()
