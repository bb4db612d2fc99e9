"""The state of a Lightning callback of one's own: kept in checkpoints, given back, or refused before training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from multitask.errors import UserError
from multitask.experiment.stage_job import OUTCOME, StageJob
from tests.helpers import newest, run, small_job, stop_at
from tests.own_modules import own_modules

CALLBACKS = """
import torch
from pytorch_lightning.callbacks import Callback

class Counting(Callback):
    ended = []

    def __init__(self):
        self.steps, self.epochs, self.losses, self.means = 0, [], [], torch.zeros(2, dtype=torch.float64)

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.steps += 1
        self.losses.append(module.loss)
        self.means = self.means * 0.9 + module.loss

    def on_train_epoch_end(self, trainer, module):
        self.epochs.append([module.state.position.epoch, module.state.position.step, self.steps])

    def on_fit_end(self, trainer, module):
        Counting.ended.append(self.state_dict())

    def state_dict(self):
        return {"steps": self.steps, "epochs": self.epochs, "losses": self.losses, "means": self.means}

    def load_state_dict(self, state):
        vars(self).update(state)

class Keeping(Callback):
    kept = None

    def state_dict(self):
        return {"what": self.kept}

class Pairs(Keeping):
    kept = (1, 2)

class Numbers(Keeping):
    kept = {1: "one"}

class Things(Keeping):
    kept = object()

class Deep(Keeping):
    kept = {"mean": torch.ones(1)}

class Endless(Keeping):
    kept = float("nan")
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module kept_own in the working directory."""
    with own_modules(tmp_path, monkeypatch, kept_own=CALLBACKS) as folder:
        yield folder


def counting(folder: Path, **stage: Any) -> StageJob:
    return small_job(folder, epochs=2, callbacks=["kept_own:Keeping", "kept_own:Counting"], **stage)


def ended() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sys.modules["kept_own"].Counting.ended
    return found


@pytest.mark.parametrize("at", [2, 4, 5, 8])  # within an epoch, before its last step, at it, in the second one
def test_a_stopped_stages_callback_has_counted_what_an_undisturbed_ones_has(at: int, tmp_path: Path) -> None:
    whole, stopped = counting(tmp_path / "whole"), counting(tmp_path / "stopped")
    assert run(whole)
    assert not run(stopped, stop_at(at)) and run(stopped)
    one, other = ended()
    assert one["steps"] == other["steps"] == 10 == newest(stopped).state.position.steps
    assert one["epochs"] == other["epochs"] == [[0, 5, 5], [1, 5, 10]]
    assert one["losses"] == other["losses"] and torch.equal(one["means"], other["means"])


def test_the_end_of_the_last_epoch_is_heard_of_by_one_that_was_killed_there(tmp_path: Path) -> None:
    job = counting(tmp_path / "runs")
    assert run(job)
    job.folder.remove(OUTCOME)
    assert run(job)
    one, other = ended()
    assert one["epochs"] == other["epochs"] and one["steps"] == other["steps"] == 10
    assert torch.equal(one["means"], other["means"])


def test_a_checkpoint_holds_it_beside_what_else_is_kept(tmp_path: Path) -> None:
    job = counting(tmp_path / "runs", loss_weights="uncertainty", tasks=["sst", "quora"])
    assert not run(job, stop_at(3))
    found = newest(job)
    assert found.state.callbacks["0"] == {"what": None} and found.state.callbacks["1"]["steps"] == 4
    assert {name for name in found.extra if name.startswith("callbacks/")} == {"callbacks/1/means"}
    assert {"uncertainty/sst"} < found.extra.keys()
    assert run(job)


@pytest.mark.parametrize("name", ["Pairs", "Numbers", "Things", "Deep", "Endless"])
def test_what_cannot_be_kept_is_refused_before_training(name: str, tmp_path: Path) -> None:
    job = small_job(tmp_path / "runs", callbacks=[f"kept_own:{name}"])
    with pytest.raises(
        UserError, match=rf"callbacks: 'kept_own:{name}': 'what' of its state is .*; valid: a tensor, or"
    ):
        run(job)
    assert not job.folder.exists("metrics.jsonl")
