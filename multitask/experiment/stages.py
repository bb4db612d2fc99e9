"""An experiment in its storage: names, fingerprints, jobs, and what the driver alone writes (experiment.json)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, Literal

from multitask.errors import Overtaken, UserError, well_formed
from multitask.experiment.differences import differences, named_before
from multitask.experiment.events import events_folder
from multitask.recipe.stages import Recipe, Stage
from multitask.storage.sealed import Damaged, document_bytes, document_of, read_document, write_document
from multitask.storage.storage import Changed, Storage, Unconditional, file_at
from multitask.storage.uris import join
from multitask.tasks.own import definitions
from multitask.tasks.table import Split

EXPERIMENT_FILE, RESULTS_FILE = "experiment.json", "results.json"
WRITER = "writer.json"  # in a trainer's folder: the process that writes its checkpoints
OUTCOME = "outcome.json"  # in a trainer's folder: what makes its stage finished
BUNDLE = "bundle"  # in a trainer's folder: a directory
Status = Literal["pending", "running", "finished", "interrupted", "failed", "stopped"]  # stopped: a trial, by ASHA
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


@dataclass
class StageRecord:
    """What experiment.json says of a stage; variant: which of several seeds it was trained with, from 0.

    trainer: empty for a swept stage, until the best of its trials is known.
    """

    trainer: str
    fingerprint: str
    parent: str
    status: Status
    attempt: int
    content: dict[str, Any]
    workers: int = 0
    log: str | None = None
    variant: int = 0
    submission_id: str | None = None


class Experiment:
    """experiment.json: written by the driver alone, read by everyone.

    Every start is an attempt with a writer's id of its own. Whoever finds another id there than its own has been
    superseded and writes nothing more: `folder` is fenced by that, `place` is the same folder without a fence, for
    the lease and for `begin_attempt`.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage, self.name = storage, name
        self.place = storage.at(name)
        self.folder = Storage(self.place.uri, self.check)
        self.attempt, self.writer = 0, ""
        self.stages: dict[str, StageRecord] = {}
        self.superseded: list[dict[str, Any]] = []
        self.recipe = ""  # sha256 of recipe.yaml as the newest attempt wrote it; attempts of older builds say nothing
        self.named: dict[str, str] = {}  # sha256 -> what this run calls it, for who reads a refusal
        self._version: str | None = None  # of the file that this was read from
        with suppress(FileNotFoundError, NotADirectoryError):
            content, self._version = self.folder.read_version(EXPERIMENT_FILE)
            with well_formed(where := join(self.folder.uri, EXPERIMENT_FILE)):
                saved = _experiment_of(content, where)
                self.attempt, self.recipe = saved["attempt"], saved.get("recipe", "")
                self.stages = {name: StageRecord(**record) for name, record in saved["stages"].items()}
                self.superseded = saved["superseded"]
                self._check_own(saved["experiment"])

    @property
    def trainers(self) -> set[str]:
        """The names of all trainers that it has had."""
        found = {record.trainer for record in self.stages.values()} | {old["trainer"] for old in self.superseded}
        return found - {""}

    def check_results(self, results: dict[str, Any]) -> None:
        """Raises Damaged where results.json speaks of trainers that this experiment has not had."""
        strange = [row["trainer"] for row in results["stages"] if row["trainer"] not in {None, *self.trainers}]
        if strange and self.stages:
            place = join(self.folder.uri, RESULTS_FILE)
            raise Damaged(f"{place}: another experiment's than {EXPERIMENT_FILE}: it has {strange[0]}")

    def _check_own(self, called: str) -> None:
        """A folder may be renamed or copied; a file of another folder speaks of trainers that are not here."""
        if called != self.name and self.trainers and self.trainers.isdisjoint(self.folder.list()):
            raise Damaged(f"{join(self.folder.uri, EXPERIMENT_FILE)}: another experiment's, '{called}'")

    def save(self) -> None:
        """Raises Superseded where another driver has begun an attempt since."""
        self._write(self.folder)

    def check(self) -> None:
        """The fence of `folder`: raises Superseded where another driver has begun an attempt since."""
        check_writer(self.place, self.attempt, self.writer)

    def _write(self, folder: Storage) -> None:
        folder.write_bytes(EXPERIMENT_FILE, self._content())

    def _content(self) -> bytes:
        return document_bytes(
            {
                "schema": 1,
                "experiment": self.name,
                "attempt": self.attempt,
                "writer": self.writer,
                "recipe": self.recipe,
                "stages": {name: asdict(record) for name, record in self.stages.items()},
                "superseded": self.superseded,
            },
        )

    def begin_attempt(self) -> None:
        """Takes over: a writer of an older attempt is fenced off from here on.

        Raises Changed where the file is another one than this was read from: an answer behind others, say, without the
        trainers of the newest attempt. Raises Superseded where another driver has begun one since, on a disk.
        """
        read, self.attempt, self.writer = self.attempt, self.attempt + 1, uuid.uuid4().hex
        try:
            self.place.replace(EXPERIMENT_FILE, self._content(), self._version)
        except Unconditional:
            if (found := _writer_of(self.place)["attempt"]) > read:
                if not self.place.is_local:
                    raise Changed(self.place.uri) from None
                raise Superseded(
                    f"{self.place.uri}: another driver began attempt {found} meanwhile, and owns it now"
                ) from None
            self._write(self.place)

    def claim(
        self, name: str, content: dict[str, Any], parent: str, fresh: bool, variant: int = 0, trial: int | None = 0
    ) -> StageRecord:
        """The stage's record under its fingerprint: the one there, or a new one.

        trial: which one of a sweep's it is; None for the swept stage itself, which has no trainer of its own.
        A swept stage is also there under its best trial's settings, which go on from that trial's bundle.
        Raises UserError where another stage lies under that name, unless `fresh` supersedes it; nothing is deleted.
        """
        fingerprint = digest(content)
        record = self.stages.get(name)
        if record and fingerprint not in (record.fingerprint, self._best_fingerprint(record)):
            if not fresh:
                raise UserError(self._refusal(name, record, content, parent))
            self._supersede(name)
            record = None
        if record is None:
            trainer = "" if trial is None else self._new_trainer(fingerprint, variant, trial)
            record = StageRecord(trainer, fingerprint, parent, "pending", self.attempt, content, variant=variant)
            self.stages[name] = record
        return record

    def _new_trainer(self, fingerprint: str, variant: int, trial: int) -> str:
        started, taken = datetime.now(UTC), {old["trainer"] for old in self.superseded}
        taken |= {other.trainer for other in self.stages.values()}
        while (trainer := trainer_name(fingerprint, started, trial, variant)) in taken:  # made within this very second
            started += timedelta(seconds=1)
        return trainer

    def _supersede(self, name: str) -> None:
        self.superseded.append({"stage": name, **asdict(self.stages.pop(name))})

    def best_trial(self, record: StageRecord) -> str | None:
        """The name of the trial that a swept stage stands for; None of other stages, and before its sweep has ended."""
        trials = record.content.get("trials", ())
        return next((name for name in trials if self._trial(name, record).trainer == record.trainer), None)

    def _trial(self, name: str, swept: StageRecord) -> StageRecord:
        return self.stages[node_key(name, swept.variant)]

    def seed(self, key: str) -> int:
        """What the stage of that key was trained with."""
        record = self.stages[key]
        best = self.best_trial(record)
        return int((self._trial(best, record) if best else record).content["recipe"]["seed"])

    def _best_fingerprint(self, record: StageRecord) -> str | None:
        best = self.best_trial(record)
        return self._trial(best, record).fingerprint if best else None

    def _refusal(self, name: str, record: StageRecord, content: dict[str, Any], parent: str) -> str:
        """One line: what the stage of that name was, and what of it would be another now."""
        named = (
            {other.fingerprint: known for known, other in self.stages.items()} | named_before(self.folder) | self.named
        )
        for said, start in ((record.content, record.parent), (content, parent)):
            named.setdefault(said.get("parent", ""), start)  # a bundle's URI; what `encoder` is, is known better
        was, what = record.content, record.trainer or "a sweep that has not ended"
        if (best := self.best_trial(record)) and "trials" not in content:
            was, what = self._trial(best, record).content, f"{what}, {best}, the best by {was['by']}"
        return (
            f"experiment '{self.name}' at {self.storage.uri} holds another stage '{name}' ({what}): "
            f"{differences(name, was, content, named)}. Give --experiment another name, or --fresh to supersede it"
        )


def _experiment_of(content: bytes, where: str) -> dict[str, Any]:
    """Raises Damaged: what was trained cannot be known without it."""
    try:
        return document_of(content, where)
    except Damaged as error:
        raise Damaged(f"{error}; put a copy of it there, or give --experiment another name") from error


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


class Superseded(Overtaken):
    """A newer attempt writes this experiment now."""


def check_writer(experiment: Storage, attempt: int, writer: str) -> None:
    """The fence: raises Superseded where another driver's attempt has begun.

    Raises UserError where the driver's own cannot be seen: each machine then has a folder of its own at that path.
    """
    found = experiment.caught_up(partial(_writer_of, experiment), lambda found: found["attempt"] >= attempt)
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


def _writer_of(experiment: Storage) -> dict[str, Any]:
    """Attempt and writer's id; 0 and none before there is an experiment. One read: it precedes every write."""
    with well_formed(join(experiment.uri, EXPERIMENT_FILE)):
        try:
            saved = _experiment_of(experiment.read_bytes(EXPERIMENT_FILE), join(experiment.uri, EXPERIMENT_FILE))
        except (FileNotFoundError, NotADirectoryError):
            return {"attempt": 0, "writer": ""}
        return {"attempt": saved["attempt"], "writer": saved["writer"]}


class Replaced(Overtaken):
    """Ray has started the workers again elsewhere: this rank 0 was thought dead."""


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
