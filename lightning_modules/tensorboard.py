"""TensorBoard events, one run per trainer name: written locally, copied whole to the storage.

A remote event file would be reopened for every scalar, so a thread copies it every 30 s, when asked to, and at the end;
a checkpoint's thread copies it before the checkpoint that covers the events.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from multitask.errors import Overtaken
from multitask.experiment.events import Points, shown_after
from multitask.storage.owners import kept_in
from multitask.storage.retries import said_clearly
from multitask.storage.storage import Storage

COPY_SECONDS = 30.0
EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\..*")  # the second in which a file was begun
log = logging.getLogger(__name__)


class EventLog:
    """What one stage tells; events from `purge` steps on, of an attempt before, are hidden by TensorBoard.

    shown: (tag, steps) of what is not hidden; it is not told again, wherever the attempt before was cut off.

    The mark that hides them is written by the first attempt too: one of TensorBoard's loaders takes a run's first mark
    for its beginning, and would hide nothing at the first resume.

    Training need not stop for a curve: what cannot be written or copied is said in a warning.
    """

    def __init__(self, folder: Storage, purge: int) -> None:
        self.folder = folder
        with said_clearly("written", tempfile.gettempdir()):
            self._local = tempfile.TemporaryDirectory(prefix=kept_in("events"), ignore_cleanup_errors=True)
            self._writer = SummaryWriter(self._local.name, purge_step=purge)
        self._newest, self.shown = _before(folder, purge)
        self._copying = threading.Lock()
        self._broken = self._closing = False
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._copy_often, name="events", daemon=True)
        self._thread.start()

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        for name, value in values.items():
            if value is not None and (name, step) not in self.shown:
                self._try_to_write(partial(self._writer.add_scalar, name, value, step))

    def settings(self, values: Mapping[str, Any], *metrics: str) -> None:
        """Writes what a sweep's trial tries, for TensorBoard's HParams page. metrics: the scalars that the page
        compares."""
        parts = hparams(dict(values), dict.fromkeys(metrics, 0.0))
        if (parts[0].value[0].tag, 0) in self.shown:
            return
        for part in parts:  # add_hparams would make a run of its own for it
            self._try_to_write(partial(self._writer._get_file_writer().add_summary, part))

    def text(self, name: str, content: str, step: int, again: bool = False) -> None:
        """Writes a text in Markdown. again: also where one stands under that tag already, and may be another now."""
        if again or (f"{name}/text_summary", step) not in self.shown:
            self._try_to_write(partial(self._writer.add_text, name, content, step))

    def layout(self, charts: Mapping[str, Mapping[str, list[Any]]]) -> None:
        """Writes the page of custom scalars: category -> chart -> its kind and the tags in it, as regular
        expressions."""
        if ("custom_scalars__config__", 0) not in self.shown:
            self._try_to_write(partial(self._writer.add_custom_scalars, charts))

    def curve(self, name: str, labels: Tensor, probabilities: Tensor, step: int) -> None:
        """Precision over recall of (N,) or (N, W) labels 0 and 1, all together."""
        if (name, step) not in self.shown:
            self._try_to_write(partial(self._writer.add_pr_curve, name, labels, probabilities, step))

    def projector(self, vectors: Sequence[Tensor], metadata: list[list[str]], header: list[str], step: int) -> None:
        """Writes points to look at, (N, H) in all, with what stands beside each."""
        points = torch.cat([part.cpu() for part in vectors])
        add = partial(self._writer.add_embedding, points, metadata, global_step=step, tag="dev", metadata_header=header)
        self._try_to_write(add)

    def copy(self) -> None:
        """Has the events copied soon, in the thread: a kill within the next seconds then loses nothing of what was told
        so far."""
        self._wanted.set()

    def copy_now(self) -> None:
        """Returns when all that was told so far is copied, or a warning says why not. For threads beside training."""
        with self._copying:
            if not self._closing:
                self._try_to_write(self._writer.flush)
                self._try_to_copy()

    def close(self) -> None:
        with self._copying:
            self._closing = True
        self._wanted.set()
        self._thread.join()
        self._try_to_write(self._writer.close)
        self._try_to_copy()
        self._local.cleanup()

    def _copy_often(self) -> None:
        while True:
            self._wanted.wait(COPY_SECONDS)
            self._wanted.clear()
            if self._closing:
                return
            self.copy_now()

    def _try_to_write(self, write: Callable[[], None]) -> None:
        """Calls the writer, whose own thread ends at its first failure, a full disk say, which every later call then
        raises."""
        try:
            if not self._broken:
                write()
        except OSError as error:
            self._broken = True
            log.warning("TensorBoard events end here, %s: %s", self._local.name, error)

    def _name(self, path: Path) -> str:
        """The name of a new event file, behind the names that lie there already, also where this machine's clock lags
        behind the one before: TensorBoard reads a run's files in the order of their names, which begin with the
        time, and never goes back."""
        found = EVENTS.fullmatch(path.name)
        if not found or int(found[1]) > self._newest:
            return path.as_posix()
        return path.with_name(path.name.replace(found[1], f"{self._newest + 1:010}", 1)).as_posix()

    def _try_to_copy(self) -> None:
        try:
            local = Path(self._local.name)
            for file in sorted(file for file in local.rglob("*") if file.is_file()):
                self.folder.write_bytes(self._name(file.relative_to(local)), file.read_bytes())
        except Overtaken:  # what the stage writes next says so
            log.info("TensorBoard events not copied: another process writes %s now", self.folder.uri)
        except Exception as error:  # the next copy holds all of it
            log.warning("TensorBoard events not copied to %s: %s", self.folder.uri, error)


def _before(folder: Storage, purge: int) -> tuple[int, set[tuple[str, int]]]:
    """The latest time in the names of a folder's event files, 0 for none, and the (tag, steps) that TensorBoard shows
    of them when what lies from `purge` steps on is hidden."""
    shown: Points = {}
    try:
        names = [name for name in folder.list() if EVENTS.fullmatch(name)]
        for name in names:
            shown = shown_after(folder.read_bytes(name), shown)
    except Exception as error:  # what cannot be read now is told of when it is written
        log.warning("TensorBoard events of before not read in %s: %s", folder.uri, error)
        return 0, set()
    newest = max((int(found[1]) for name in names if (found := EVENTS.fullmatch(name))), default=0)
    return newest, {(tag, step) for tag, step in shown if step < purge}
