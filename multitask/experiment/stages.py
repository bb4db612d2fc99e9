"""A stage: its fingerprint and names, the job that a worker makes of it, and the outcome that finishes it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import uuid
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from multitask.errors import well_formed
from multitask.experiment.events import events_folder
from multitask.experiment.fence import WRITER, Replaced, check_writer
from multitask.recipe.stages import Recipe, Stage
from multitask.storage.sealed import Damaged, read_document, write_document
from multitask.storage.storage import Storage, file_at
from multitask.storage.uris import join
from multitask.tasks.own import definitions
from multitask.tasks.table import Split

OUTCOME = "outcome.json"  # in a trainer's folder: what makes its stage finished
BUNDLE = "bundle"  # in a trainer's folder: a directory
log = logging.getLogger(__name__)


def digest(value: Any) -> str:
    """sha256 over a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def stage_content(
    recipe: Recipe, stage: Stage, heads: dict[str, str], data: dict[str, dict[str, str]], parent: str, seed: int
) -> dict[str, Any]:
    """What a stage's outcome depends on: never a path, a worker count or the code.

    heads: task -> head name in that stage. data: task -> split -> sha256 of the file. parent: the fingerprint of
    what the stage starts from.
    """
    own = definitions(recipe.specs)
    return {
        "stage": stage.content(),
        "tasks": {
            name: [heads[name], task.loss, task.columns, *([own[name]] if name in own else [])]
            for name, task in recipe.tasks.items()
        },
        "data": {
            task: {split: sha for split, sha in splits.items() if split == "dev" or task in stage.tasks}
            for task, splits in data.items()
        },
        "recipe": {"seed": seed, "max_length": recipe.max_length, "max_bad_rows": recipe.max_bad_rows},
        "parent": parent,
    }


def trainer_name(fingerprint: str, started: datetime, trial: int = 0, variant: int = 0) -> str:
    """As the papers name their runs: TorchTrainer_086a8_00000_0_2024-06-09_09-59-59."""
    return f"TorchTrainer_{fingerprint[:5]}_{trial:05d}_{variant}_{started.astimezone(UTC):%Y-%m-%d_%H-%M-%S}"


@dataclass(frozen=True)
class StageJob:
    """All that a worker must know of a stage, as plain JSON; paths are relative to the storage.

    attempt, writer: of the driver, for the fence. start: the bundle it starts from. train, dev: task -> token cache.
    heads, losses: task -> name. about: what its bundle says of itself.
    label: what it is known by among its run's jobs. shown: what progress calls it; its seed too, where there are more.
    settings, by: of a sweep's trial, what it tries, and what decides. process: the id under which a process that runs
    the job claims to be its writer; none in the driver's hands.
    measure_start: measure the dev sets before training too (the results' row `encoder`). keep_features: leave the dev
    sentences' encodings in the cache, for a stage that starts from this one and freezes its encoder. predict: task ->
    split -> token cache of what the finished stage predicts. specs: own tasks' definitions.
    """

    storage: str
    experiment: str
    trainer: str
    attempt: int
    writer: str
    stage: dict[str, Any]
    seed: int
    heads: dict[str, str]
    losses: dict[str, str]
    start: str
    train: dict[str, str]
    dev: dict[str, str]
    measure_start: bool
    keep_features: bool = False
    predict: dict[str, dict[Split, str]] = field(default_factory=dict)
    label: str = ""
    shown: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    specs: dict[str, Any] = field(default_factory=dict)
    process: str = ""

    @property
    def folder(self) -> Storage:
        """The trainer's, fenced: nothing is written or removed there for a driver, or by a process, that another has
        taken the stage over from."""
        return Storage(join(self.storage, self.experiment, self.trainer), partial(check_job, self))

    @property
    def events(self) -> Storage:
        """Where its TensorBoard events lie."""
        return events_folder(self.folder, self.label or self.stage["name"], self.seed)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write_outcome(trainer: Storage, outcome: dict[str, Any]) -> None:
    """Writes what makes the stage of a trainer's folder finished, to be called last of all."""
    write_document(trainer, OUTCOME, outcome, file_at(trainer.uri)[1])


def read_outcome(trainer: Storage, wait: bool = False) -> dict[str, Any] | None:
    """What a finished stage has left; None of another. A damaged one is none, and is named in a warning: the stage goes
    on from its last checkpoint, and ends once more. wait: it is known to have finished, if not seen yet by all."""
    if wait:
        return trainer.caught_up(partial(read_outcome, trainer), lambda found: found is not None)
    try:
        return read_document(trainer, OUTCOME, file_at(trainer.uri)[1])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Damaged as error:
        _warn(f"{error}; its stage is taken for unfinished")
        return None


@cache
def _warn(line: str) -> None:
    """Logs a line once, however often what it speaks of is read."""
    log.warning(line)


def node_key(name: str, variant: int) -> str:
    """What a stage's or a trial's record is known by: `sst`, and `sst#1` under the second of several seeds."""
    return f"{name}#{variant}" if variant else name


def check_attempt(job: StageJob) -> None:
    """The fence between drivers, by their attempts, for the job of a worker."""
    check_writer(Storage(join(job.storage, job.experiment)), job.attempt, job.writer)


def check_job(job: StageJob) -> None:
    """The fence of a job's folder: between drivers, and between the rank 0s that one driver's workers were started
    with. Raises Superseded or Replaced."""
    check_attempt(job)
    if not job.process:
        return
    trainer = Storage(join(job.storage, job.experiment, job.trainer))
    with well_formed(join(trainer.uri, WRITER)):
        read = partial(read_document, trainer, WRITER, job.trainer)
        found = trainer.caught_up(read, lambda found: found["id"] == job.process)
        if found["id"] != job.process:
            raise Replaced(f"{trainer.uri}: process {found['process']} on {found['host']} writes this stage now")


def claimable(job: StageJob) -> StageJob:
    """The job in the hands of a process that runs it: it writes nothing there until it has claimed the stage."""
    return replace(job, process=uuid.uuid4().hex)


def claim(job: StageJob) -> None:
    """Makes this process the stage's writer; one that was before finds this one's id at the fence."""
    writer = {"id": job.process, "host": socket.gethostname(), "process": os.getpid()}
    write_document(replace(job, process="").folder, WRITER, writer, job.trainer)
