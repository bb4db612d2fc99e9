"""A stage: its fingerprint and names, the job that a worker makes of it, and the outcome that finishes it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from multitask.experiment.events import events_folder
from multitask.experiment.fence import Owner
from multitask.recipe.stages import Recipe, Stage
from multitask.storage.sealed import Damaged, read_document, write_document
from multitask.storage.storage import Storage, file_at
from multitask.tasks.imported import code_of
from multitask.tasks.own import definitions
from multitask.tasks.table import Split

OUTCOME = "outcome.json"  # in a trainer's folder: what makes its stage finished
BUNDLE = "bundle"  # in a trainer's folder: a directory
TRAINER = "TorchTrainer_"  # how the names of trainers, and of their folders, begin
log = logging.getLogger(__name__)


def digest(value: Any) -> str:
    """sha256 over a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def stage_content(
    recipe: Recipe,
    stage: Stage,
    heads: dict[str, str],
    data: dict[str, dict[str, str]],
    parent: str,
    seed: int,
    teachers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a stage's outcome depends on: never a path, a worker count or the project's code; a user's own heads and
    losses by their modules' files.

    heads: task -> head name in that stage. data: task -> split -> sha256 of the file. parent: the fingerprint of
    what the stage starts from. teachers: task -> what it learns of which teacher, by content.
    """
    own, losses = definitions(recipe.specs), recipe.loss_settings(stage)
    weights = {task: column for task in stage.tasks if (column := recipe.tasks[task].weight)}
    losses_named = [task.loss for task in recipe.tasks.values()]
    code = code_of([*heads.values(), *losses_named, *recipe.named_metrics, *stage.own_code])
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
        **({"losses": losses} if losses else {}),
        **({"overall": recipe.overall_of} if recipe.overall else {}),
        **({"teachers": dict(teachers)} if teachers else {}),
        **({"code": code} if code else {}),
        **({"weights": weights} if weights else {}),
    }


def trainer_name(fingerprint: str, started: datetime, trial: int = 0, variant: int = 0) -> str:
    """A trainer's name in the form of the papers' runs: TorchTrainer_086a8_00000_0_2024-06-09_09-59-59."""
    return f"{TRAINER}{fingerprint[:5]}_{trial:05d}_{variant}_{started.astimezone(UTC):%Y-%m-%d_%H-%M-%S}"


@dataclass(frozen=True)
class JobModel:
    """What a stage trains."""

    start: str
    """The bundle that it starts from, a path in the storage."""
    heads: dict[str, str] = field(default_factory=dict)
    """Task -> the name of its head."""
    losses: dict[str, str] = field(default_factory=dict)
    """Task -> the name of its loss."""
    loss_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Trained task -> the settings of its loss that are not its defaults."""
    specs: dict[str, Any] = field(default_factory=dict)
    """Own task -> its definition."""
    own: list[str] = field(default_factory=list)
    """The import paths that the recipe names, which a worker may import."""


@dataclass(frozen=True)
class JobTeacher:
    """What a task learns from beside its labels, or one member of an ensemble that it learns from."""

    bundle: str
    """The teacher, a path in the storage."""
    fingerprint: str
    """A hash of its content."""
    tokens: str
    """The task's training set as the teacher reads it, a token cache's path in the storage."""
    share: float = 1.0
    """How much it counts among the task's teachers."""


@dataclass(frozen=True)
class JobData:
    """Where a stage's token caches lie: paths in the storage."""

    train: dict[str, str] = field(default_factory=dict)
    """Task that is trained -> its training set."""
    dev: dict[str, str] = field(default_factory=dict)
    """Task -> its dev set, which is measured."""
    predict: dict[str, dict[Split, str]] = field(default_factory=dict)
    """Task -> split -> what the finished stage predicts."""
    teachers: dict[str, list[JobTeacher]] = field(default_factory=dict)
    """Task -> its teacher, or the members of the ensemble that teaches it, where it has one."""

    @staticmethod
    def of(saved: Mapping[str, Any]) -> JobData:
        """The data that `asdict` made this of."""
        teachers = {task: [JobTeacher(**one) for one in some] for task, some in saved["teachers"].items()}
        return JobData(**{**saved, "teachers": teachers})


@dataclass(frozen=True)
class StageJob:
    """All that a worker must know of a stage, as plain JSON."""

    owner: Owner
    stage: dict[str, Any]
    """The recipe's Stage."""
    seed: int
    model: JobModel
    data: JobData
    label: str = ""
    """What it is known by among its run's jobs."""
    shown: str = ""
    """What progress calls it: its label, and its seed where there are several."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What a trial of a sweep tries; empty for a stage."""
    by: str = ""
    """The metric that a trial's sweep decides by."""
    measure_start: bool = False
    """Measure the dev sets before training too: the results' row `encoder`."""
    keep_features: bool = False
    """Leave the dev sentences' encodings in the cache: a stage that freezes the encoder starts from this one."""
    overall: list[str] = field(default_factory=list)
    """The metrics that overall scores are made of; none for the papers' three."""
    measures: list[str] = field(default_factory=list)
    """Further metrics that dev is measured by, TASK/METRIC."""
    about: dict[str, Any] = field(default_factory=dict)
    """What its bundle says of itself."""

    @property
    def folder(self) -> Storage:
        """The trainer's folder, fenced against who does not own the stage any more."""
        return self.owner.folder

    @property
    def events(self) -> Storage:
        """The folder of its TensorBoard events."""
        return events_folder(self.folder, self.label or self.stage["name"], self.seed)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(saved: Mapping[str, Any]) -> StageJob:
        """The job that `to_json` made this of."""
        owner, model, data = Owner(**saved["owner"]), JobModel(**saved["model"]), JobData.of(saved["data"])
        return StageJob(**{**saved, "owner": owner, "model": model, "data": data})


def write_outcome(trainer: Storage, outcome: dict[str, Any]) -> None:
    """Writes what makes a stage finished into its trainer's folder, to be called last of all."""
    write_document(trainer, OUTCOME, outcome, file_at(trainer.uri)[1])


def read_outcome(trainer: Storage, wait: bool = False) -> dict[str, Any] | None:
    """The outcome that a finished stage has left in its trainer's folder; None of an unfinished one. A damaged outcome
    counts as none, with a warning: the stage goes on from its last checkpoint and ends once more. wait: the stage is
    known to have finished, and its outcome is waited for where reads lag behind writes."""
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
