"""A refusal says what has changed in the words of a recipe, old and new; never a fingerprint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from multitask.data.sample import sample_uri
from multitask.errors import UserError
from multitask.experiment.differences import differences
from multitask.storage.storage import Storage
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from tests.helpers import small_driver
from tests.integration.test_plan import execute

OLD, NEW = "a" * 64, "b" * 64
CONTENT: dict[str, Any] = {
    "stage": {"name": "sts", "lr": 1e-3, "clip": None, "loss_weights": {"sts": 2.0}},
    "tasks": {"sts": ["cosine", None, {}]},
    "data": {"sts": {"train": OLD, "dev": OLD}},
    "recipe": {"seed": 1, "max_length": 512},
    "parent": OLD,
}
SWEPT = {"trials": {"sts@lr=0.001": OLD, "sts@lr=0.0003": NEW}, "by": "sts/pearson"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"stage": {**CONTENT["stage"], "lr": 3e-4}}, "stages.sts.lr: 0.001 -> 0.0003"),
        ({"stage": {**CONTENT["stage"], "clip": 1.0}}, "stages.sts.clip: null -> 1.0"),
        ({"stage": {**CONTENT["stage"], "loss_weights": {}}}, "stages.sts.loss_weights.sts: 2.0 -> absent"),
        ({"tasks": {"sts": ["mlp", "mse", {}]}}, "tasks.sts.head: cosine -> mlp; tasks.sts.loss: null -> mse"),
        ({"tasks": {"sts": ["cosine", None, {"text": "body"}]}}, "tasks.sts.columns.text: absent -> body"),
        (
            {"tasks": {"sts": ["linear", None, {}, {"pair": "joined"}]}},
            "tasks.sts.head: cosine -> linear; tasks.sts.pair: absent -> joined",
        ),
        ({"recipe": {"seed": 2, "max_length": 512}}, "seed: 1 -> 2"),
        (
            {"teachers": {"sts": {"bundle": NEW, "weight": 0.5}}},
            "stages.sts.teachers.sts.bundle: absent -> encoder; stages.sts.teachers.sts.weight: absent -> 0.5",
        ),
        ({"parent": NEW}, "stages.sts.from: para -> encoder"),
        ({"data": {"sts": {"train": NEW, "dev": OLD}}}, "data.sts.train: para -> encoder"),
    ],
)
def test_a_change_is_said_under_its_path(changed: dict[str, Any], said: str) -> None:
    assert differences("sts#1", CONTENT, {**CONTENT, **changed}, {OLD: "para", NEW: "encoder"}) == said


def test_another_content_under_the_same_name_is_said_so() -> None:
    named = {OLD: "sts.csv", NEW: "sts.csv"}
    changed = {**CONTENT, "data": {"sts": {"train": NEW, "dev": OLD}}, "parent": NEW}
    assert differences("sts", CONTENT, changed, named) == (
        "stages.sts.from: sts.csv, with other weights than before; data.sts.train: sts.csv, with other rows than before"
    )
    assert differences("sts", CONTENT, changed, {NEW: "new"}).startswith("stages.sts.from: another one -> new")


def test_more_changes_than_fit_are_counted() -> None:
    changed = {**CONTENT, "stage": {"name": "sts", **dict.fromkeys("abcdef", 1)}}
    assert differences("sts", CONTENT, changed, {}).endswith("stages.sts.d: absent -> 1; and 5 more")


def test_sweeps_are_told_apart_by_what_they_try_and_by_what_decides() -> None:
    other = {"trials": {"sts@lr=0.001": OLD}, "by": "sst/accuracy"}
    assert differences("sts", SWEPT, other, {}) == (
        "stages.sts.sweep: lr=0.001 | lr=0.0003 -> lr=0.001; stages.sts.sweep.by: sts/pearson -> sst/accuracy"
    )
    plain = differences("sts", CONTENT, SWEPT, {})
    assert plain == "stages.sts.sweep: absent -> lr=0.001 | lr=0.0003; stages.sts.sweep.by: absent -> sts/pearson"


def refused(driver: Driver) -> str:
    with pytest.raises(UserError) as caught:
        execute(driver)
    assert not re.search("[0-9a-f]{32}", str(caught.value))
    return str(caught.value)


@pytest.mark.slow
def test_a_driver_names_files_and_encoders_as_they_were_given(tmp_path: Path) -> None:
    execute(small_driver(tmp_path))
    data = tmp_path / "mine"
    data.mkdir()
    for file in Path(sample_uri()).iterdir():
        rows = file.read_text().splitlines(keepends=True)
        (data / file.name).write_text("".join(rows[:-1] if file.name == "quora-train.csv" else rows))
    old, new = f"{sample_uri()}/quora-train.csv", f"{data}/quora-train.csv"
    assert f": data.quora.train: {old} -> {new}. " in refused(small_driver(tmp_path, data=str(data)))
    again = small_driver(tmp_path)
    request = TrainingRequest(
        again.recipe.model_copy(update={"pooling": "cls"}), None, Storage(str(tmp_path)), "small", Workers(), False
    )
    assert ": stages.para.from: tiny -> tiny (pooling: cls). " in refused(Driver(request, Screen()))
