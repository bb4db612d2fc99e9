"""TensorBoard events, one run per trainer name: written locally, copied whole to the storage.

A remote event file would be reopened for every scalar, so a thread copies it every 30 s and at the end.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from multitask.retries import said_clearly
from multitask.storage import Storage

COPY_SECONDS = 30.0
log = logging.getLogger(__name__)


class EventLog:
    """Scalars of one stage; events from `purge` steps on, of an attempt before, are hidden by TensorBoard.

    Training need not stop for a curve: what cannot be written or copied is said in a warning.
    """

    def __init__(self, folder: Storage, purge: int) -> None:
        self.folder = folder
        with said_clearly("written", tempfile.gettempdir()):
            self._local = tempfile.TemporaryDirectory(prefix="minibert-events-", ignore_cleanup_errors=True)
            self._writer = SummaryWriter(self._local.name, purge_step=purge or None)
        self._broken = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._copy_often, name="events", daemon=True)
        self._thread.start()

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        for name, value in values.items():
            if value is not None:
                self._try_to_write(partial(self._writer.add_scalar, name, value, step))

    def settings(self, values: Mapping[str, Any], by: str) -> None:
        """What a sweep's trial tries, for TensorBoard's HParams page; `by` is the scalar that it compares."""
        for part in hparams(dict(values), {by: 0.0}):
            self._writer._get_file_writer().add_summary(part)  # add_hparams would make a run of its own for it

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._try_to_write(self._writer.close)
        self._try_to_copy()
        self._local.cleanup()

    def _copy_often(self) -> None:
        while not self._stop.wait(COPY_SECONDS):
            self._try_to_write(self._writer.flush)
            self._try_to_copy()

    def _try_to_write(self, write: Callable[[], None]) -> None:
        """The writer's own thread ends at its first failure, a full disk say, which every later call then raises."""
        try:
            if not self._broken:
                write()
        except OSError as error:
            self._broken = True
            log.warning("TensorBoard events end here, %s: %s", self._local.name, error)

    def _try_to_copy(self) -> None:
        try:
            for file in Path(self._local.name).iterdir():
                self.folder.write_bytes(file.name, file.read_bytes())
        except Exception as error:  # the next copy holds all of it
            log.warning("TensorBoard events not copied to %s: %s", self.folder.uri, error)
