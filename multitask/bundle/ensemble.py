"""An ensemble: bundles that answer together. It is a directory of their copies and ensemble.json, so it can be moved.

ensemble.json, a sealed document, says which bundles they are, by their content, how much each counts in each task, what
the tasks are, and what was measured of all that on dev. A member has its own encoder, tokenizer, pairing and heads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multitask.bundle.bundle import ENSEMBLE, Bundle, bundle_fingerprint, member_folder, read_bundle
from multitask.bundle.checks import About, ShortText
from multitask.errors import UserError
from multitask.model.sources import SOURCES
from multitask.storage.sealed import Damaged, read_document, write_document
from multitask.storage.storage import Storage
from multitask.tasks.own import definitions, known
from multitask.tasks.table import TaskSpec

SCHEMA = 1
FITTED = "fitted"  # of `weights` in `about`, where they are not alike but fitted
MOST = 100  # members
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class Ensemble:
    """Bundles that answer tasks together.

    members: the bundles; where they lie in files, one is read each time that it is asked for. weights: task -> how much
    each member counts, 1 in sum; 0 where it has no such head. specs: what the tasks are, whether a member joins a pair
    or not. about: where it comes from. dev: what was measured of it.
    """

    members: Sequence[Bundle]
    weights: Mapping[str, tuple[float, ...]]
    specs: Mapping[str, TaskSpec]
    about: dict[str, Any] = field(default_factory=dict)
    dev: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """A hash of each member's content, where they lie in files."""
        assert isinstance(self.members, Members)
        return self.members.fingerprints

    @property
    def tasks(self) -> list[str]:
        """The tasks that some member answers."""
        return list(self.weights)

    @property
    def answers(self) -> list[str]:
        """Every one of its tasks: a member without a trained head for a task has no part in it."""
        return self.tasks

    @property
    def called(self) -> str:
        """What an error calls it."""
        return f"ensemble of {len(self.members)}"

    def shares(self, task: str) -> tuple[float, ...]:
        """How much each member counts in the task's answers."""
        return self.weights[task]

    def loaded(self) -> Ensemble:
        """What answers without its files: all members are in memory."""
        return replace(self, members=tuple(self.members))


Answering = Bundle | Ensemble


class Members(Sequence[Bundle]):
    """An ensemble's bundles in its directory, each read when it is asked for, and not kept.

    fingerprints: of their content. tasks: what each has to answer, and what these are. Raises UserError where a bundle
    is not sound, or not the one that it was.
    """

    def __init__(self, place: Storage, fingerprints: Sequence[str], tasks: Sequence[Mapping[str, TaskSpec]]) -> None:
        self.place, self.fingerprints, self.tasks = place, tuple(fingerprints), tuple(tasks)

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __iter__(self) -> Iterator[Bundle]:
        return (self._read(number) for number in range(len(self)))

    def __getitem__(self, at: Any) -> Any:
        picked = range(len(self))[at]
        return self._read(picked) if isinstance(picked, int) else tuple(map(self._read, picked))

    def _read(self, number: int) -> Bundle:
        place = self.place.at(member_folder(number))
        bundle = read_bundle(place)
        if bundle_fingerprint(place) != self.fingerprints[number]:
            raise Damaged(f"bundle '{place.uri}': not the member that its ensemble was made of")
        for task, spec in self.tasks[number].items():
            if task not in bundle.heads or (other := differing(bundle.specs[task], spec)):
                what = f"its {other} is another" if task in bundle.heads else "it has no such head"
                raise Damaged(f"bundle '{place.uri}': damaged: it answers task {task} in its ensemble, but {what}")
        return bundle


def differing(one: TaskSpec, other: TaskSpec) -> str:
    """What makes two tasks of one name different ones, in a word; "" where their labels mean the same. How a member
    reads a pair, and by which head, is its own."""
    facts = [{**vars(spec.label), **vars(spec)} for spec in (one, other)]
    named = ("kind", "column", "words", "low", "high", "thresholds", "columns", "metric", "files")
    return next((name for name in named if facts[0][name] != facts[1][name]), "")


class _Member(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    bundle: ShortText
    fingerprint: ShortText


class _Facts(BaseModel):
    """The schema of ensemble.json."""

    model_config = ConfigDict(extra="allow", strict=True)

    members: Annotated[list[_Member], Field(min_length=1, max_length=MOST)]
    weights: dict[ShortText, list[Share]]
    specs: dict[str, Any]
    about: About
    dev: dict[str, Any]


def write_ensemble(place: Storage, ensemble: Ensemble, members: Sequence[Mapping[str, str]]) -> None:
    """Writes ensemble.json beside the members, whose bundles lie there already. members: what the user calls each
    (`bundle`), and its `fingerprint`."""
    weights = {task: list(shares) for task, shares in ensemble.weights.items()}
    specs = definitions({task: ensemble.specs[task] for task in ensemble.tasks})
    facts = {"members": list(members), "weights": weights, "specs": specs, "about": ensemble.about}
    write_document(place, ENSEMBLE, {"schema": SCHEMA, **facts, "dev": ensemble.dev})


def read_ensemble(place: Storage) -> Ensemble:
    """The ensemble in a directory; its bundles are read when they are asked for. Raises UserError where ensemble.json
    is not sound."""
    facts = ensemble_facts(place)
    where = f"ensemble '{place.uri}'"
    specs = known(facts["specs"], where)
    weights = {task: tuple(shares) for task, shares in facts["weights"].items()}
    count = len(facts["members"])
    for task, shares in weights.items():
        if task not in specs:
            raise UserError(f"{where}: weights for task '{task}', which it does not define")
        if len(shares) != count or abs(sum(shares) - 1) > 1e-6:
            raise UserError(f"{where}: weights of {task}: {list(shares)}; valid: {count} numbers, 1 in sum")
    mine = [{task: specs[task] for task, shares in weights.items() if shares[at]} for at in range(count)]
    members = Members(place, [member["fingerprint"] for member in facts["members"]], mine)
    return Ensemble(members, weights, specs, facts["about"], facts["dev"])


def ensemble_facts(place: Storage) -> dict[str, Any]:
    """What ensemble.json says. Raises UserError."""
    where = f"ensemble '{place.uri}'"
    facts = read_document(place, ENSEMBLE)
    if (schema := facts.get("schema", "missing")) != SCHEMA:
        raise UserError(f"{where}: schema {schema}; this version reads {SCHEMA}")
    try:
        _Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise UserError(f"{where}: {ENSEMBLE}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return facts


def ensemble_fingerprint(place: Storage) -> str:
    """sha256 of what an ensemble answers with: its members' content, their weights and the tasks."""
    facts = ensemble_facts(place)
    told = [[member["fingerprint"] for member in facts["members"]], facts["weights"], facts["specs"]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def is_ensemble(uri: str) -> bool:
    """Whether a URI holds an ensemble."""
    return uri not in SOURCES and Storage(uri).exists(ENSEMBLE)
