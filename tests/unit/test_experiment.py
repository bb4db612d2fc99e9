"""Names, fingerprints and the fence: what a stage is known by, and who may write it."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from multitask.data.sample import sample_uri
from multitask.errors import UserError
from multitask.experiment.experiment_file import Experiment
from multitask.experiment.fence import Owner, Replaced, Superseded
from multitask.experiment.stage_job import JobData, JobModel, StageJob, digest, stage_content, trainer_name
from multitask.recipe.checks import build_recipe
from multitask.recipe.loading import apply_override
from multitask.recipe.parsing import parse_yaml
from multitask.storage.storage import Storage
from ray_jobs.driver.prepare import prepare

TEXT = """
name: three
encoder: tiny
tasks: {sst: {head: mlp}, quora: {head: mlp}, sts: {head: cosine}}
stages:
  - {name: para, tasks: [quora], train: full-model, lr: 1e-5}
  - {name: sts, tasks: [sts], train: full-model, lr: 1e-5}
  - {name: sst, tasks: [sst], train: last-linear-layer, lr: 1e-3}
"""
ALL = {"para", "sts", "sst"}
DATA = {task: {split: f"{task} {split}" for split in ("train", "dev")} for task in ("sst", "quora", "sts")}


def recipe_of(*overrides: str) -> Any:
    tree = parse_yaml(TEXT, "test")
    for override in overrides:
        apply_override(tree, override)
    return build_recipe(tree, "test")


def fingerprints(*overrides: str, data: dict[str, dict[str, str]] = DATA, encoder: str = "tiny's") -> dict[str, str]:
    recipe, found = recipe_of(*overrides), {"encoder": encoder}
    for stage in recipe.stages:
        content = stage_content(recipe, stage, recipe.heads(stage), data, found[recipe.parent(stage)], recipe.seed)
        found[stage.name] = digest(json.loads(json.dumps(content)))
    return {name: found[name] for name in ALL}


def changed(*overrides: str, **facts: Any) -> set[str]:
    before, after = fingerprints(), fingerprints(*overrides, **facts)
    return {name for name in ALL if before[name] != after[name]}


# What is set -> the stages whose outcome it changes: a stage's own, and all that start from it.
CHANGES = {
    "stages.sst.lr=1e-4": {"sst"},
    "stages.sts.lr=1e-4": {"sts", "sst"},
    "stages.para.lr=1e-4": ALL,
    "stages.sts.max_examples=10": {"sts", "sst"},
    "stages.sst.from=para": {"sst"},
    "stages.sst.keep={best: sst/accuracy}": {"sst"},
    "stages.sst.average={ema: 0.9}": {"sst"},
    "stages.sst.average=null": set(),
    "overall={tasks: [sst, quora]}": ALL,
    "overall=null": set(),
    "defaults.precision=64-true": ALL,
    "seed=1": ALL,
    "max_length=64": ALL,
    "tasks.sst.head=linear": ALL,
    "tasks.sts.loss=mse": ALL,
    "name=another": set(),
    "stages.sst.from=sts": set(),
    "stages.sst.lr=0.001": set(),
    "defaults.checkpoint_minutes=1": set(),
    "defaults.checkpoint_steps=7": set(),
    "defaults.validate=stage": set(),
    "tasks.sst.train=/elsewhere/ids-sst-train.csv": set(),
}


@pytest.mark.parametrize("override", CHANGES)
def test_a_fingerprint_is_of_what_changes_the_outcome(override: str) -> None:
    assert changed(override) == CHANGES[override]


def test_a_fingerprint_is_of_the_data_and_the_encoder() -> None:
    assert changed(data={**DATA, "sst": {**DATA["sst"], "train": "other rows"}}) == {"sst"}
    assert changed(data={**DATA, "quora": {**DATA["quora"], "train": "other rows"}}) == ALL
    assert changed(data={**DATA, "sst": {**DATA["sst"], "dev": "other rows"}}) == ALL  # every stage measures it
    assert changed(encoder="minilm's") == ALL


@pytest.mark.slow
def test_the_same_files_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    """What is prepared in another storage, from a copy of the data, has the same content."""
    recipe = recipe_of()
    shutil.copytree(sample_uri(), tmp_path / "copy")
    first = prepare(recipe, sample_uri(), Storage(str(tmp_path / "one")))
    second = prepare(recipe, str(tmp_path / "copy"), Storage(str(tmp_path / "two")))
    assert first.shas() == second.shas()
    assert first.start == second.start
    with open(tmp_path / "copy" / "sts-train.csv", "a") as file:
        file.write("9999\tx\tone more\tone more row\t5.0\n")
    third = prepare(recipe, str(tmp_path / "copy"), Storage(str(tmp_path / "two")))
    assert third.shas()["quora"] == first.shas()["quora"]
    assert third.shas()["sts"]["train"] != first.shas()["sts"]["train"]


def test_a_digest_does_not_depend_on_order_and_takes_no_nan() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        digest({"lr": float("nan")})


def test_a_trainer_is_named_as_the_papers_name_theirs() -> None:
    moment = datetime(2024, 6, 9, 9, 59, 59, tzinfo=UTC)
    assert trainer_name("086a8" + "f" * 59, moment) == "TorchTrainer_086a8_00000_0_2024-06-09_09-59-59"
    assert trainer_name("086a8", moment, trial=12, variant=3) == "TorchTrainer_086a8_00012_3_2024-06-09_09-59-59"
    elsewhere = moment.astimezone(timezone(timedelta(hours=9)))
    assert trainer_name("086a8", elsewhere) == trainer_name("086a8", moment)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def started(storage: Storage, **content: Any) -> Experiment:
    """An experiment whose stage `para` an earlier run claimed."""
    experiment = Experiment(storage, "exp")
    experiment.claim("para", {"stage": {"lr": 1e-5}, **content}, "encoder", fresh=False)
    experiment.begin_attempt()
    return Experiment(storage, "exp")


def test_a_new_experiment_knows_nothing(storage: Storage) -> None:
    experiment = Experiment(storage, "exp")
    assert (experiment.attempt, experiment.stages, experiment.superseded) == (0, {}, [])
    assert storage.list() == []


def test_the_same_stage_keeps_its_trainer(storage: Storage) -> None:
    experiment = started(storage)
    first = experiment.stages["para"]
    again = experiment.claim("para", {"stage": {"lr": 1e-5}}, "encoder", fresh=False)
    assert again == first
    assert re.fullmatch(rf"TorchTrainer_{digest(first.content)[:5]}_00000_0_[\d-]+_[\d-]+", again.trainer)
    assert (again.parent, again.status) == ("encoder", "pending")


def test_another_stage_under_the_name_is_refused_with_the_difference(storage: Storage) -> None:
    experiment = started(storage, seed=1)
    with pytest.raises(UserError) as caught:
        experiment.claim("para", {"stage": {"lr": 3e-5, "clip": 1.0}}, "encoder", fresh=False)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in ("'exp'", storage.uri, "'para'", "stages.para.lr: 1e-05 -> 3e-05", "stages.para.clip: absent -> 1.0"):
        assert part in message
    for part in ("seed: 1 -> absent", "--experiment", "--fresh", experiment.stages["para"].trainer):
        assert part in message
    assert Experiment(storage, "exp").stages == experiment.stages


def test_fresh_supersedes_and_forgets_nothing(storage: Storage) -> None:
    started(storage)
    experiment = Experiment(storage, "exp")
    experiment.begin_attempt()
    old = experiment.stages["para"]
    new = experiment.claim("para", {"stage": {"lr": 3e-5}}, "encoder", fresh=True)
    experiment.save()
    assert new.trainer != old.trainer
    saved = Experiment(storage, "exp")
    assert saved.stages == {"para": new}
    (record,) = saved.superseded
    assert (record["stage"], record["trainer"]) == ("para", old.trainer)
    assert record["content"] == old.content


def test_every_start_is_a_new_attempt(storage: Storage) -> None:
    attempts = []
    for _ in range(3):
        experiment = Experiment(storage, "exp")
        experiment.begin_attempt()
        attempts.append(Experiment(storage, "exp").attempt)
    assert attempts == [1, 2, 3]


def job_of(experiment: Experiment) -> StageJob:
    model, data = JobModel("", {"sst": "mlp"}), JobData(predict={"sst": {"dev": "cache"}})
    return StageJob(owner_of(experiment), {}, 1, model, data)


def owner_of(experiment: Experiment) -> Owner:
    return Owner(experiment.storage.uri, "exp", "TorchTrainer_x", experiment.attempt, experiment.writer)


def test_driver_and_workers_of_an_older_attempt_are_fenced_off(storage: Storage) -> None:
    older, early = Experiment(storage, "exp"), Experiment(storage, "exp")
    owner_of(older).check_attempt()  # nothing there yet
    older.begin_attempt()
    owner_of(older).check_attempt()
    older.save()
    with pytest.raises(Superseded, match="another driver began attempt 1 meanwhile"):
        early.begin_attempt()  # held between reading and beginning, it does not take over from who owns it now
    newer = Experiment(storage, "exp")
    newer.begin_attempt()
    assert (older.attempt, newer.attempt) == (1, 2)
    with pytest.raises(Superseded, match="attempt 1 was superseded by attempt 2"):
        owner_of(older).check_attempt()
    with pytest.raises(Superseded):
        older.save()
    owner_of(newer).check_attempt()
    newer.save()


def test_a_storage_that_a_worker_does_not_see_is_refused(storage: Storage) -> None:
    """Each machine has a folder of its own at the path: an empty one, or one with an older run in it."""
    experiment = Experiment(storage, "exp")
    experiment.begin_attempt()
    before = experiment.place.read_bytes("experiment.json")
    experiment.begin_attempt()
    owner = owner_of(experiment)
    experiment.place.write_bytes("experiment.json", before)
    with pytest.raises(UserError, match="does not see what the driver wrote there; give --storage a folder"):
        owner.check_attempt()
    experiment.place.remove("experiment.json")
    with pytest.raises(UserError, match="does not see what the driver wrote there"):
        owner.check_attempt()


def test_a_job_is_plain_json(storage: Storage) -> None:
    job = job_of(Experiment(storage, "exp"))
    assert StageJob.of(json.loads(json.dumps(job.to_json()))) == job
    assert job.folder.uri == f"{storage.uri}/exp/TorchTrainer_x"


def test_a_rank_that_was_thought_dead_finds_another_at_the_fence(storage: Storage) -> None:
    experiment = Experiment(storage, "exp")
    experiment.begin_attempt()
    older, newer = owner_of(experiment).claimable(), owner_of(experiment).claimable()
    older.claim()
    older.folder.write_bytes("file", b"older")
    newer.claim()
    newer.folder.write_bytes("file", b"newer")
    with pytest.raises(Replaced, match=r"process \d+ on .* writes this stage now"):
        older.folder.write_bytes("file", b"older")
    with pytest.raises(Replaced):
        older.folder.remove("file")
    assert storage.read_bytes("exp/TorchTrainer_x/file") == b"newer"
