"""What is known of a bundle beside itself: what a trainer's folder and its experiment say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multitask.bundle.bundle import is_bundle
from multitask.errors import well_formed
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.finding import find_bundle
from multitask.experiment.stage_job import OUTCOME
from multitask.storage.sealed import read_document
from multitask.storage.storage import Storage, file_at
from multitask.storage.uris import join


@dataclass(frozen=True)
class Provenance:
    """What is known of a bundle beside itself.

    outcome: outcome.json's content (metrics, intervals, why). data: task -> results.json's facts of its files. stages:
    results.json's rows, from the encoder to the bundle's own. All empty where nothing is known.
    """

    outcome: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: Sequence[Mapping[str, Any]] = ()


def provenance_of(uri: str) -> Provenance:
    """What is known of the bundle at a URI, or of an encoder's name; of a bundle in no trainer's folder, nothing."""
    place = find_bundle(uri).uri
    trainer, _, _ = place.rstrip("/").rpartition("/")
    if not is_bundle(place) or (outcome := _found(trainer, OUTCOME, file_at(trainer)[1])) is None:
        return Provenance()
    experiment, _, name = trainer.rpartition("/")
    results = _found(experiment, "results.json")
    if results is None:
        return Provenance(outcome)
    storage, called = file_at(experiment)
    with well_formed(join(experiment, "results.json")):
        Experiment(storage, called).check_results(results)
        return Provenance(outcome, results["data"], _line(results["stages"], name))


def shared_data(uris: Iterable[str]) -> dict[str, Any]:
    """Task -> its files (`source`, `fingerprint`), of several bundles together: where the experiments of all that know
    of the task have the same dev rows. The training files are those of any of them."""
    known: dict[str, list[Mapping[str, Any]]] = {}
    for uri in uris:
        for task, facts in provenance_of(uri).data.items():
            known.setdefault(task, []).append(facts)
    return {
        task: _together(found)
        for task, found in known.items()
        if len({facts["fingerprint"].get("dev") for facts in found}) == 1
    }


def _together(known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A task's files in several experiments: the first one's, but the training files of all; these together have no
    fingerprint where they are not the same."""
    source, fingerprint = dict(known[0]["source"]), dict(known[0]["fingerprint"])
    if len({facts["fingerprint"].get("train") for facts in known}) > 1:
        fingerprint.pop("train", None)
        named = [facts["source"]["train"] for facts in known if facts["source"].get("train")]
        source["train"] = ", ".join(dict.fromkeys(named))
    return {"source": source, "fingerprint": fingerprint}


def _found(folder: str, name: str, of: str = "") -> Any:
    """A sealed document's content; None where there is none. Raises Damaged."""
    try:
        return read_document(Storage(folder), name, of)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _line(stages: Sequence[Mapping[str, Any]], trainer: str) -> list[Mapping[str, Any]]:
    """The trained stages that led to a trainer's bundle, its own last."""
    own = [stage for stage in stages if stage["trainer"] == trainer]
    line: list[Mapping[str, Any]] = []
    while own and own[-1] not in line:
        line = [own[-1], *line]
        above, variant = own[-1]["from"], own[-1]["variant"]
        own = [stage for stage in stages if (stage["name"], stage["variant"]) == (above, variant) and stage["trainer"]]
    return line
