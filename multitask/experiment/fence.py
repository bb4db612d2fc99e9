"""The fence: who may write an experiment, and who a stage of it, as its files say before every write."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

from multitask.errors import Overtaken, UserError, well_formed
from multitask.storage.sealed import Damaged, document_of
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
    """Raises Damaged: what was trained cannot be known without it."""
    try:
        return document_of(content, where)
    except Damaged as error:
        raise Damaged(f"{error}; put a copy of it there, or give --experiment another name") from error
