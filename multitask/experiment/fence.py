"""The fence: who may write an experiment, and who a stage of it, as its files say before every write."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from multitask.errors import Overtaken, UserError, well_formed
from multitask.storage.sealed import Damaged, document_of, read_document, write_document
from multitask.storage.storage import Storage
from multitask.storage.uris import join

EXPERIMENT_FILE = "experiment.json"
WRITER = "writer.json"  # in a trainer's folder: the process that writes its checkpoints


class Superseded(Overtaken):
    """A newer attempt writes this experiment now."""


class Replaced(Overtaken):
    """Ray has started the workers again elsewhere: this rank 0 was thought dead."""


def check_writer(experiment: Storage, attempt: int, writer: str) -> None:
    """The fence: raises Superseded where another driver's attempt has begun.

    Raises UserError where the driver's own cannot be seen: each machine then has a folder of its own at that path.
    """
    found = experiment.caught_up(partial(writer_of, experiment), lambda found: found["attempt"] >= attempt)
    if found["attempt"] < attempt:
        raise UserError(
            f"storage '{experiment.uri}': {socket.gethostname()} does not see what the driver wrote there; "
            f"give --storage a folder that all machines share, or an object store (s3://bucket/prefix)"
        )
    if found["writer"] != writer:
        raise Superseded(
            f"{experiment.uri}: attempt {attempt} was superseded by attempt {found['attempt']} of another driver, "
            f"which owns the experiment now; this one has ended and writes nothing more"
        )


def writer_of(experiment: Storage) -> dict[str, Any]:
    """Attempt and writer's id; 0 and none before there is an experiment. One read: it precedes every write."""
    with well_formed(join(experiment.uri, EXPERIMENT_FILE)):
        try:
            saved = experiment_of(experiment.read_bytes(EXPERIMENT_FILE), join(experiment.uri, EXPERIMENT_FILE))
        except (FileNotFoundError, NotADirectoryError):
            return {"attempt": 0, "writer": ""}
        return {"attempt": saved["attempt"], "writer": saved["writer"]}


def experiment_of(content: bytes, where: str) -> dict[str, Any]:
    """The content of experiment.json. Raises Damaged: what was trained cannot be known without it."""
    try:
        return document_of(content, where)
    except Damaged as error:
        raise Damaged(f"{error}; put a copy of it there, or give --experiment another name") from error


@dataclass(frozen=True)
class Owner:
    """Who may write a stage: an attempt of a driver, and among its workers one process. Plain JSON."""

    storage: str
    """The URI of the storage."""
    experiment: str
    trainer: str
    attempt: int
    """The driver's attempt on the experiment."""
    writer: str
    """The id that the driver began its attempt with."""
    process: str = ""
    """The id under which a process that runs the stage claims it; empty in the driver's hands."""

    @property
    def folder(self) -> Storage:
        """The trainer's folder, fenced: nothing is written or removed there for a driver, or by a process, that another
        has taken the stage over from."""
        return Storage(self._trainer.uri, self.check)

    @property
    def _trainer(self) -> Storage:
        return Storage(join(self.storage, self.experiment, self.trainer))

    def check_attempt(self) -> None:
        """The fence between drivers. Raises Superseded, and UserError where this machine does not see the storage."""
        check_writer(Storage(join(self.storage, self.experiment)), self.attempt, self.writer)

    def check(self) -> None:
        """The fence of `folder`: between drivers, and between the rank 0s that one driver's workers were started with.

        Raises Superseded or Replaced.
        """
        self.check_attempt()
        if not self.process:
            return
        trainer = self._trainer
        with well_formed(join(trainer.uri, WRITER)):
            read = partial(read_document, trainer, WRITER, self.trainer)
            found = trainer.caught_up(read, lambda found: found["id"] == self.process)
            if found["id"] != self.process:
                raise Replaced(f"{trainer.uri}: process {found['process']} on {found['host']} writes this stage now")

    def claimable(self) -> Owner:
        """The owner as a process that runs the stage: it writes nothing there until it has claimed it."""
        return replace(self, process=uuid.uuid4().hex)

    def claim(self) -> None:
        """Makes this process the stage's writer; one that was before finds this one's id at the fence."""
        writer = {"id": self.process, "host": socket.gethostname(), "process": os.getpid()}
        write_document(replace(self, process="").folder, WRITER, writer, self.trainer)
