"""What a user calls a bundle: its directory or URI, an experiment's stage, or an encoder's name."""

from __future__ import annotations

from pathlib import Path

from multitask.bundle.bundle import Bundle, check_trainer, is_bundle, weights_of
from multitask.bundle.ensemble import Answering, ensemble_fingerprint, is_ensemble, read_ensemble
from multitask.bundle.found import Found, found_at
from multitask.errors import UserError, near, short_list, warn_once, well_formed
from multitask.experiment.experiment_file import Experiment, StageRecord
from multitask.experiment.fence import EXPERIMENT_FILE
from multitask.experiment.stage_job import BUNDLE, OUTCOME, read_outcome
from multitask.storage.sealed import Damaged
from multitask.storage.storage import Storage, file_at
from multitask.storage.uris import join, shown


def find_bundle(uri: str) -> Storage:
    """The bundle's directory: `uri` itself, or that of the stage where `uri` is EXPERIMENT/STAGE, such as
    runs/demo/sst. Raises UserError where a stage has none; whether a bundle lies at a URI is for who reads it."""
    if is_bundle(uri) or is_ensemble(uri):
        return Storage(uri)
    folder, stage = file_at(uri.rstrip("/"))
    if folder.exists(EXPERIMENT_FILE):
        return _of_a_stage(folder, stage)
    if Storage(uri).exists(EXPERIMENT_FILE):
        raise UserError(f"bundle '{uri}': an experiment; name one of its stages; {_stages(Storage(uri))}")
    if "://" not in uri and (names := sorted(file.parent.name for file in Path(uri).glob(f"*/{EXPERIMENT_FILE}"))):
        raise UserError(f"bundle '{uri}': a storage, with the experiments {short_list(names)}; name a stage of one")
    return Storage(uri)


def _of_a_stage(experiment: Storage, stage: str) -> Storage:
    storage, name = file_at(experiment.uri)
    found = Experiment(storage, name)
    record = found.stages.get(stage)
    if record and is_bundle(place := join(experiment.uri, record.trainer, BUNDLE)):
        with well_formed(join(place, "model.json")):
            check_trainer(Storage(place).read_json("model.json")["about"], record.trainer, place)
            _check_ended(experiment.at(record.trainer), place)
        with well_formed(join(experiment.uri, EXPERIMENT_FILE)):
            _tell_seed(found, stage)
        return Storage(place)
    what = _lacking(stage, record) if record else f"no stage '{stage}'"
    raise UserError(f"bundle '{experiment.uri}/{stage}': {what}; {_stages(experiment)}{near(stage, found.stages)}")


def _check_ended(trainer: Storage, place: str) -> None:
    """Raises Damaged where a stage has ended with other weights than its bundle has."""
    outcome = read_outcome(trainer)
    if outcome and outcome.get("weights") not in (None, weights_of(Storage(place))):
        raise Damaged(
            f"bundle '{place}': not the one that its stage ended with, as {OUTCOME} says; "
            f"`minibert train` makes it again"
        )


def _lacking(stage: str, record: StageRecord) -> str:
    """What to say of a stage without a bundle."""
    if record.status != "finished":
        return f"stage '{stage}' has no bundle yet"
    return f"{EXPERIMENT_FILE} says that stage '{stage}' has finished, but there is no bundle of {record.trainer}"


def _tell_seed(experiment: Experiment, stage: str) -> None:
    """Which of several seeds' bundles a stage's plain name means, and what the others are called."""
    trained = [key for key, record in experiment.stages.items() if record.status == "finished"]
    named = {key: join(shown(experiment.folder.uri), key) for key in [stage, *trained]}
    others = [f"{named[key]} (seed {experiment.seed(key)})" for key in trained if key.startswith(f"{stage}#")]
    if others:
        warn_once(f"{named[stage]} is of seed {experiment.seed(stage)}; others: {', '.join(others)}")


def _stages(experiment: Storage) -> str:
    storage, name = file_at(experiment.uri)
    stages = Experiment(storage, name).stages
    return "it has " + ", ".join(f"{experiment.uri}/{stage} ({record.status})" for stage, record in stages.items())


def open_bundle(uri: str) -> Bundle:
    """The bundle at a URI, of an experiment's stage, of an encoder's name or of another's model. Raises UserError where
    there is none."""
    return open_found(uri).bundle


def open_answering(uri: str) -> Found[Answering]:
    """What answers tasks at a URI, with a hash of its content: an ensemble, or what `open_bundle` opens."""
    if is_ensemble(uri):
        return Found(read_ensemble(Storage(uri)), ensemble_fingerprint(Storage(uri)))
    return open_found(uri)


def open_found(uri: str) -> Found[Bundle]:
    """What `open_bundle` opens, with a hash of its content."""
    place = find_bundle(uri).uri
    return found_at(place if is_bundle(place) else uri)
