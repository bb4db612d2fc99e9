"""What two times of one run have left may not mix: checkpoints of another step, bundles and outcomes of another end,
stages that came from other weights, results of an attempt before."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multitask.bundle.bundle import read_bundle, weights_of
from multitask.errors import UserError
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.finding import find_bundle
from multitask.experiment.records import read_records, write_records
from multitask.experiment.stage_job import read_outcome, write_outcome
from multitask.report.reading import read_evidence
from multitask.storage.sealed import Damaged
from multitask.storage.storage import Storage
from ray_jobs.stopping import StopRequest
from tests.helpers import tree_driver

STAGES: list[dict[str, Any]] = [
    {"name": "para", "tasks": ["quora"], "epochs": 3, "keep": {"best": "quora/accuracy"}, "lr": 3e-2},
    {"name": "child", "tasks": ["sst"], "train": "last-linear-layer", "lr": 1e-2},
]
Folders = dict[str, Path]  # stage -> its trainer's


def train(storage: Path) -> dict[str, str]:
    """Stage -> sha256 of the weights that it has after the command."""
    tree_driver(storage, STAGES).run(StopRequest(""))
    return weights(storage)


def weights(storage: Path) -> dict[str, str]:
    return {stage: weights_of(Storage(str(folder / "bundle"))) for stage, folder in folders(storage).items()}


def folders(storage: Path) -> Folders:
    experiment = Experiment(Storage(str(storage)), "tree")
    return {stage: storage / "tree" / record.trainer for stage, record in experiment.stages.items()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose first stage keeps an epoch before its last, so that two of its checkpoints differ in use."""
    storage = tmp_path_factory.mktemp("sound")
    train(storage)
    outcome = read_outcome(Storage(str(folders(storage)["para"])))
    assert outcome and outcome["kept_epoch"] < 3
    return storage


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "runs"))


def checkpoints(folder: Path) -> tuple[Path, Path]:
    """That of the best epoch, and the last one."""
    outcome = read_outcome(Storage(str(folder)))
    assert outcome
    kept = outcome["kept_epoch"] * outcome["steps"] // outcome["epochs"]
    return tuple(folder / "checkpoints" / f"step-{steps:08d}" for steps in (kept, outcome["steps"]))  # type: ignore[return-value]


def lose_the_best(storage: Path) -> None:
    """From then on the stage ends with its last epoch's weights."""
    para = folders(storage)["para"]
    shutil.rmtree(checkpoints(para)[0])
    (para / "outcome.json").unlink()


def test_a_checkpoint_in_another_ones_folder_is_none(sound: Path, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The best epoch's, without which the last epoch's weights are kept, with a warning: never those in its folder."""
    para = folders(copy)["para"]
    best, last = checkpoints(para)
    shutil.rmtree(best)
    shutil.copytree(last, best)
    (para / "outcome.json").unlink()
    train(copy)
    assert f"{best.name}: damaged: of step 9, not of its folder's" in caplog.text
    assert "last epoch's weights are kept" in caplog.text
    outcome = read_outcome(Storage(str(para)))
    assert outcome and outcome["kept_epoch"] == 3


def test_a_child_of_other_weights_is_made_again(sound: Path, copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    lose_the_best(copy)
    after = train(copy)
    assert after["para"] != weights(sound)["para"] and after["child"] != weights(sound)["child"]
    assert "para: finished before, but its outcome.json is gone; made again" in caplog.text
    assert "child: finished before, but it started from other weights of 'para' than lie there now" in caplog.text
    assert "its checkpoints come from another" in caplog.text
    held = read_bundle(Storage(str(copy)), f"tree/{folders(copy)['para'].name}/bundle").tensors
    given = read_bundle(Storage(str(copy)), f"tree/{folders(copy)['child'].name}/bundle").tensors
    assert all((given[name] == value).all() for name, value in held.items() if name.startswith("encoder."))


def test_the_same_parent_again_leaves_its_child_alone(sound: Path, copy: Path) -> None:
    para = folders(copy)["para"]
    (para / "outcome.json").unlink()
    before = (folders(copy)["child"] / "outcome.json").stat().st_mtime_ns
    assert train(copy) == weights(sound)
    assert (folders(copy)["child"] / "outcome.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("other", ["bundle", "outcome.json"])
def test_a_bundle_and_an_outcome_of_two_times_do_not_fit(
    other: str, sound: Path, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other time's is laid beside the sound one's; the command makes the sound one again, from its checkpoint."""
    earlier = Path(shutil.copytree(sound, tmp_path / "earlier"))
    lose_the_best(earlier)
    train(earlier)
    mine, theirs = folders(copy)["para"] / other, folders(earlier)["para"] / other
    shutil.rmtree(mine) if mine.is_dir() else mine.unlink()
    shutil.copytree(theirs, mine) if theirs.is_dir() else shutil.copy(theirs, mine)
    with pytest.raises(Damaged, match=r"not the one that its stage ended with, as outcome\.json says"):
        find_bundle(f"{copy}/tree/para")
    caplog.clear()
    assert train(copy) == weights(sound)
    assert "para: finished before, but its bundle is not the one that it ended with; made again" in caplog.text


def test_results_of_an_attempt_before_are_refused(sound: Path, copy: Path) -> None:
    old = (copy / "tree" / "results.json").read_bytes()
    train(copy)
    read_evidence(Storage(str(copy / "tree")))
    (copy / "tree" / "results.json").write_bytes(old)
    with pytest.raises(UserError, match=r"results\.json: written by attempt 1, but experiment\.json is of attempt 2"):
        read_evidence(Storage(str(copy / "tree")))
    train(copy)
    assert read_evidence(Storage(str(copy / "tree"))).results["attempt"] == 3


def test_metrics_that_are_not_what_the_stage_ended_with_are_not_taken(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Storage(str(folders(copy)["para"]))
    records = read_records(folder)
    assert len(records) == 4 and not caplog.records
    write_records(folder, records[:2])
    assert read_records(folder) == records
    assert "metrics.jsonl: not what the stage ended with; taken from its outcome" in caplog.text


def test_outcomes_of_older_builds_fit_whatever_lies_there(sound: Path, copy: Path) -> None:
    folder = Storage(str(folders(copy)["para"]))
    outcome = read_outcome(folder)
    assert outcome
    write_outcome(folder, {name: value for name, value in outcome.items() if "weights" not in name})
    before = (folders(copy)["child"] / "outcome.json").stat().st_mtime_ns
    assert train(copy) == weights(sound)
    assert (folders(copy)["child"] / "outcome.json").stat().st_mtime_ns == before  # it was not trained again


def test_trainers_without_their_experiments_file_are_said(
    sound: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "tree" / "experiment.json").unlink()
    assert train(copy) == weights(sound)
    assert "2 folders of trainers" in caplog.text and "all is trained anew beside them" in caplog.text


def test_another_seeds_stage_goes_with_the_one_that_is_superseded(tmp_path: Path) -> None:
    changed = [{**STAGES[1], "lr": 1e-1}]
    tree_driver(tmp_path, STAGES[1:], seeds=2).run(StopRequest(""))
    driver = tree_driver(tmp_path, changed)
    driver.request = replace(driver.request, fresh=True)
    driver.run(StopRequest(""))
    assert Experiment(Storage(str(tmp_path)), "tree").stages.keys() == {"child"}
