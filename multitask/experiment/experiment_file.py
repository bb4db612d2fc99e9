"""experiment.json: an experiment's stages and attempts, as its driver alone writes them and everyone reads them."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from multitask.errors import UserError, well_formed
from multitask.experiment.differences import differences, named_before
from multitask.experiment.fence import EXPERIMENT_FILE, Superseded, check_writer, experiment_of, writer_of
from multitask.experiment.stage_job import digest, node_key, trainer_name
from multitask.storage.sealed import Damaged, document_bytes
from multitask.storage.storage import Changed, Storage, Unconditional
from multitask.storage.uris import join

RESULTS_FILE = "results.json"
Status = Literal["pending", "running", "finished", "interrupted", "failed", "stopped"]  # stopped: a trial, by ASHA


@dataclass
class StageRecord:
    """What experiment.json says of a stage."""

    trainer: str
    """The trainer's name; empty for a swept stage, until the best of its trials is known."""
    fingerprint: str
    parent: str
    """What the stage starts from: a stage's name, `encoder`, or a bundle's URI."""
    status: Status
    attempt: int
    """The attempt in which it was trained last."""
    content: dict[str, Any]
    """What the fingerprint is a hash of."""
    workers: int = 0
    """How many Ray workers trained it; 0: the driver itself."""
    log: str | None = None
    """The driver's log, a path in the experiment."""
    variant: int = 0
    """Which of several seeds it was trained with, from 0."""
    submission_id: str | None = None
    """The id of the Ray job that the driver was, if it was one."""


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
                saved = experiment_of(content, where)
                self.attempt, self.recipe = saved["attempt"], saved.get("recipe", "")
                self.stages = {name: StageRecord(**record) for name, record in saved["stages"].items()}
                self.superseded = saved["superseded"]
                self._check_own(saved["experiment"])

    @property
    def trainers(self) -> set[str]:
        """The names of all trainers that the experiment has had."""
        found = {record.trainer for record in self.stages.values()} | {old["trainer"] for old in self.superseded}
        return found - {""}

    def check_results(self, results: dict[str, Any]) -> None:
        """Raises Damaged where results.json is of another attempt, or of trainers that this experiment has not had."""
        place, attempt = join(self.folder.uri, RESULTS_FILE), results.get("attempt")  # which older builds do not write
        if self.attempt and attempt not in (None, self.attempt):
            raise Damaged(
                f"{place}: written by attempt {attempt}, but {EXPERIMENT_FILE} is of attempt {self.attempt}; "
                f"`minibert train` writes it again"
            )
        strange = [row["trainer"] for row in results["stages"] if row["trainer"] not in {None, *self.trainers}]
        if strange and self.stages:
            raise Damaged(f"{place}: another experiment's than {EXPERIMENT_FILE}: it has {strange[0]}")

    def _check_own(self, called: str) -> None:
        """Raises Damaged where the file is of another folder: a copied or renamed one speaks of trainers that are not
        here."""
        if called != self.name and self.trainers and self.trainers.isdisjoint(self.folder.list()):
            raise Damaged(f"{join(self.folder.uri, EXPERIMENT_FILE)}: another experiment's, '{called}'")

    def save(self) -> None:
        """Writes experiment.json. Raises Superseded where another driver has begun an attempt since."""
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
        """Begins a new attempt: a writer of an older one is fenced off from here on.

        Raises Changed where experiment.json is not the version that this was read from: a read may be behind the newest
        write, and lack its trainers. Raises Superseded where, on a disk, another driver has begun an attempt since.
        """
        read, self.attempt, self.writer = self.attempt, self.attempt + 1, uuid.uuid4().hex
        try:
            self.place.replace(EXPERIMENT_FILE, self._content(), self._version)
        except Unconditional:
            if (found := writer_of(self.place)["attempt"]) > read:
                if not self.place.is_local:
                    raise Changed(self.place.uri) from None
                raise Superseded(
                    f"{self.place.uri}: another driver began attempt {found} meanwhile, and owns it now"
                ) from None
            self._write(self.place)

    def finished(self) -> set[str]:
        """The keys of the stages that have finished, as far as the experiment was read."""
        return {key for key, record in self.stages.items() if record.status == "finished"}

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
            for key in [key for key in self.stages if key == name or key.startswith(f"{name}#")]:
                self._supersede(key)  # with other seeds' stages of that name, which this recipe may not have
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
        """The seed that the stage of a key was trained with."""
        record = self.stages[key]
        best = self.best_trial(record)
        return int((self._trial(best, record) if best else record).content["recipe"]["seed"])

    def _best_fingerprint(self, record: StageRecord) -> str | None:
        best = self.best_trial(record)
        return self._trial(best, record).fingerprint if best else None

    def _refusal(self, name: str, record: StageRecord, content: dict[str, Any], parent: str) -> str:
        """One line that says what the stage of a name was, and what of it would be another now."""
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
