"""A driver that is held at a write while another takes its experiment over: let go, it changes nothing there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from multitask.experiment.experiment_file import Experiment
from multitask.experiment.fence import Superseded
from multitask.experiment.lease import FILE, this_process
from multitask.recipe.checks import build_recipe
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import run_training
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from tests.helpers import recipe_tree

STAGE = {"epochs": 2, "batch_size": 4, "max_examples": 40, "checkpoint_steps": 8, "validate": "stage"}
PROFILED = "lightning_modules.profiling Profile._keep"
# Where it is held: right before what makes each kind of write or removal.
HELD = [
    "ray_jobs.driver.driver Driver._keep_recipe",
    "multitask.experiment.experiment_file Experiment.save",
    "ray_jobs.driver.driver Driver.write_results",
    "multitask.experiment.fence Owner.claim",
    "lightning_modules.tensorboard EventLog._try_to_copy",
    PROFILED,
    "multitask.experiment.checkpoints write_sealed",
    "multitask.experiment.checkpoints CheckpointStore._retain",
    "lightning_modules.dev write_records",
    "lightning_modules.finishing write_predictions",
    "lightning_modules.finishing write_submission_zip",
    "lightning_modules.finishing save_bundle",
    "lightning_modules.finishing Finishing._outcome",
]
LAST = "ray_jobs.logs DriverLog.__exit__"


def files(folder: Path) -> dict[str, str]:
    """Path -> a hash of its content, of all that lies there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def hold(place: str, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> None:
    """Has that function call `meanwhile` before its own work, the first time."""
    module, name = place.split()
    owner: Any = import_module(module)
    *parts, last = name.split(".")
    for part in parts:
        owner = getattr(owner, part)
    true = getattr(owner, last)
    met: list[bool] = []

    def held(*given: Any, **named: Any) -> Any:
        if not met:
            met.append(True)
            meanwhile()
        return true(*given, **named)

    monkeypatch.setattr(owner, last, held)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(str(tmp_path_factory.mktemp("runs")))


def train(storage: Storage, experiment: str, profile: bool = False) -> None:
    recipe = build_recipe(recipe_tree(**STAGE, profile=profile), "test")
    run_training(TrainingRequest(recipe, None, storage, experiment, Workers()), Screen(quiet=True))


def held_at(place: str, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], None]]:
    """The experiment that is taken over from a driver that is held there; what checks that nothing changed since."""
    name = place.rpartition(".")[2].rpartition(" ")[2].strip("_")
    folder, then = Path(storage.uri, name), {}

    def taken_over() -> None:
        Experiment(storage, name).begin_attempt()
        (folder / FILE).write_text(json.dumps(asdict(this_process())))
        until = time.monotonic() + 10
        while any(folder.rglob(".tmp*")) and time.monotonic() < until:  # another thread's write was let through before
            time.sleep(0.01)
        then.update(files(folder))

    hold(place, monkeypatch, taken_over)

    def unchanged() -> None:
        assert then, "it was never held"
        assert files(folder) == then

    return folder, unchanged


@pytest.mark.parametrize("place", HELD, ids=[place.rpartition(".")[2] for place in HELD])
def test_a_superseded_driver_changes_nothing(place: str, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, unchanged = held_at(place, storage, monkeypatch)
    with pytest.raises(Superseded, match=r"attempt 1 was superseded by attempt 2 of another driver") as told:
        train(storage, folder.name, profile=place == PROFILED)
    unchanged()
    assert "\n" not in str(told.value)


def test_the_log_of_a_superseded_driver_is_not_copied(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, unchanged = held_at(LAST, storage, monkeypatch)
    train(storage, folder.name)
    unchanged()
    assert not (folder / "logs").exists()
