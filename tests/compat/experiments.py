"""Experiments that others, or an earlier run, have left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multitask.bundle.bundle import save_bundle
from multitask.experiment.events import event_files, events_folder
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.finding import find_bundle
from multitask.experiment.stage_job import node_key
from multitask.storage.storage import Storage
from tests.compat.table import Row
from tests.helpers import tiny

BY = "sts/pearson"


def _content(lr: float, seed: int = 11711) -> dict[str, Any]:
    return {"stage": {"name": "sts", "lr": lr}, "recipe": {"seed": seed}, "parent": "a"}


def _swept(folder: Path) -> Experiment:
    """An experiment in which a sweep has chosen lr=0.001."""
    experiment = Experiment(Storage(str(folder)), "exp")
    trials = [experiment.claim(f"sts@lr={lr:g}", _content(lr), "encoder", False) for lr in (1e-3, 3e-4)]
    names = [name for name in experiment.stages if name.startswith("sts@")]
    chosen = {name: trial.fingerprint for name, trial in zip(names, trials, strict=True)}
    stage = experiment.claim("sts", {"trials": chosen, "by": BY}, "encoder", False, trial=None)
    stage.trainer = trials[0].trainer
    return experiment


def _best_settings(folder: Path) -> None:
    experiment = _swept(folder)
    record = experiment.claim("sts", _content(1e-3), "encoder", fresh=False)
    assert record.trainer == experiment.stages["sts@lr=0.001"].trainer


def _other_settings(folder: Path) -> None:
    _swept(folder).claim("sts", _content(3e-4), "encoder", fresh=False)


def _another_rate(folder: Path) -> None:
    experiment = Experiment(Storage(str(folder)), "exp")
    for lr in (1e-3, 3e-4):
        experiment.claim("sts", _content(lr), "encoder", fresh=False)


def _several_seeds(folder: Path) -> None:
    experiment = Experiment(Storage(str(folder)), "exp")
    for variant in range(2):
        record = experiment.claim(node_key("sts", variant), _content(1e-3, 11711 + variant), "encoder", False, variant)
        record.status = "finished"
        save_bundle(experiment.storage, f"exp/{record.trainer}/bundle", tiny())
    experiment.begin_attempt()
    assert find_bundle(str(folder / "exp" / "sts")).uri.endswith(f"{experiment.stages['sts'].trainer}/bundle")


def _events_of_before(folder: Path) -> None:
    trainer = Storage(str(folder))
    trainer.write_bytes("events.out.tfevents.1.host.1.0", b"")
    assert events_folder(trainer, "sts", 11711).uri == trainer.uri
    assert event_files(trainer) == ["events.out.tfevents.1.host.1.0"]


ROWS = (
    Row(
        "a sweep's experiment, the stage given its best trial's settings",
        "read",
        _best_settings,
    ),
    Row(
        "a sweep's experiment, the stage given other settings",
        "refused",
        _other_settings,
        "holds another stage 'sts' (..., sts@lr=0.001, the best by sts/pearson): stages.sts.lr: 0.001 -> 0.0003. "
        "Give --experiment another name, or --fresh to supersede it",
    ),
    Row(
        "an experiment's name, and another learning rate",
        "refused",
        _another_rate,
        "holds another stage 'sts' (...): stages.sts.lr: 0.001 -> 0.0003. "
        "Give --experiment another name, or --fresh to supersede it",
    ),
    Row(
        "a stage that several seeds were trained of, by its plain name",
        "noted",
        _several_seeds,
        "exp/sts is of seed 11711; others: exp/sts#1 (seed 11712)",
    ),
    Row("TensorBoard events in the trainer's own folder, of versions before", "read", _events_of_before),
)
