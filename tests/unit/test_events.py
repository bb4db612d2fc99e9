"""Which runs TensorBoard lists: each has its trainer's name, and says stage, trial and seed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from lightning_modules.summary import BEST, tell_best
from lightning_modules.tensorboard import EventLog
from multitask.experiment.events import event_files, events_folder
from multitask.experiment.results import row
from multitask.storage.storage import Storage
from tests.helpers import run, small_job, stop_at

LABELS = {
    ("sst", 11711): "sst seed=11711",
    ("sst", 11712): "sst seed=11712",
    ("sts@lr=0.001,epochs=3", 11711): "sts lr=0.001,epochs=3 seed=11711",
}


def runs(folder: Path) -> EventMultiplexer:
    """As TensorBoard reads a logdir."""
    found = EventMultiplexer().AddRunsFromDirectory(str(folder))
    found.Reload()
    return found


def test_a_run_says_which_stage_trial_and_seed_it_is(tmp_path: Path) -> None:
    for number, (label, seed) in enumerate(LABELS):
        log = EventLog(events_folder(Storage(str(tmp_path / f"TorchTrainer_{number}")), label, seed), purge=0)
        log.scalars({"loss": 1.0}, 1)
        log.close()
    assert sorted(runs(tmp_path).Runs()) == [f"TorchTrainer_{at}/{name}" for at, name in enumerate(LABELS.values())]
    for number, name in enumerate(LABELS.values()):
        (file,) = event_files(Storage(str(tmp_path / f"TorchTrainer_{number}")))
        assert file.startswith(f"{name}/events.out.tfevents.")


@pytest.mark.slow
def test_a_stage_that_began_in_its_trainers_own_folder_goes_on_there(tmp_path: Path) -> None:
    """As all stages did before: one run, not two with half of the points each."""
    job = small_job(tmp_path, epochs=4, checkpoint_steps=5)
    assert not run(job, stop_at(12))
    home, began = Path(job.folder.uri), Path(job.events.uri)
    assert began.name == "para seed=11711"
    for file in began.iterdir():
        shutil.move(file, home / file.name)
    began.rmdir()
    assert run(job)
    assert list(runs(tmp_path / "small").Runs()) == [job.owner.trainer]
    points = [point.step for point in runs(tmp_path / "small").Tensors(job.owner.trainer, "train/loss")]
    assert points == [10, 20]


@pytest.mark.slow
def test_the_best_trials_run_says_so_and_keeps_all_it_told(tmp_path: Path) -> None:
    job = replace(small_job(tmp_path, epochs=2), label="para@lr=0.001", settings={"lr": 0.001}, by="quora/accuracy")
    assert run(job)
    name = f"{job.owner.trainer}/para lr=0.001 seed=11711"
    before = runs(tmp_path / "small")
    told = {tag: len(before.Tensors(name, tag)) for tag in before.Runs()[name]["tensors"]}
    scores = {"para@lr=0.001": 0.75, "para@lr=0.0001": 0.5}
    facts = {"status": "finished", "steps": 10}
    tell_best(job, [row(trial, metrics={"quora/accuracy": score}, **facts) for trial, score in scores.items()])
    after = runs(tmp_path / "small")
    assert list(after.Runs()) == [name]
    assert {tag: len(after.Tensors(name, tag)) for tag in told} == told
    (text,) = after.Tensors(name, "stage/sweep/text_summary")
    said = text.tensor_proto.string_val[0].decode()
    assert "para@lr=0.001 is the best of 2 trials by quora/accuracy" in said
    assert "| para@lr=0.001 | .750* | finished |" in said and "| para@lr=0.0001 | .500 | finished |" in said
    (best,) = after.Tensors(name, BEST)
    assert (best.step, best.tensor_proto.float_val[0]) == (10, 0.75)
