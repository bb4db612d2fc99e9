"""What a user calls a bundle: its directory or URI, an experiment's stage, or an encoder's name."""

from __future__ import annotations

from multitask.bundle import Bundle, is_bundle, read_bundle, source_bundle
from multitask.errors import UserError
from multitask.experiment import FILE, Experiment
from multitask.model.sources import load_source
from multitask.storage import Storage, file_at, join


def find_bundle(uri: str) -> Storage:
    """The bundle's directory: `uri` itself, or that of the stage where `uri` is EXPERIMENT/STAGE, such as
    runs/demo/sst. Raises UserError where a stage has none; whether a bundle lies at a URI is for who reads it."""
    if is_bundle(uri):
        return Storage(uri)
    folder, name = file_at(uri.rstrip("/"))
    for experiment, stages in ((folder, [name]), (Storage(uri), [])):
        if experiment.exists(FILE):
            return _of_a_stage(experiment, stages)
    return Storage(uri)


def _of_a_stage(experiment: Storage, wanted: list[str]) -> Storage:
    """wanted: the stage's name; without one the experiment is refused, naming those it has."""
    storage, name = file_at(experiment.uri)
    stages = Experiment(storage, name).stages
    for stage in wanted:
        if stage in stages and is_bundle(place := join(experiment.uri, stages[stage].trainer, "bundle")):
            return Storage(place)
    has = ", ".join(f"{experiment.uri}/{stage} ({record.status})" for stage, record in stages.items())
    what = f"its stage '{wanted[0]}' has no bundle" if wanted and wanted[0] in stages else "name one of its stages"
    raise UserError(f"bundle '{join(experiment.uri, *wanted)}': an experiment; {what}; it has {has}")


def open_bundle(uri: str) -> Bundle:
    """The bundle there, or an encoder without heads by its name. Raises UserError where there is neither."""
    place = find_bundle(uri)
    return read_bundle(place) if is_bundle(place.uri) else source_bundle(load_source(uri, seed=0))
