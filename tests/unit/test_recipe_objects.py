"""Recipes written in Python: what is wrong is told in one line, as of a file."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from multitask import Recipe, Settings, Split, Stage, Task
from multitask.errors import UserError
from multitask.recipe.checks import build_recipe

STAGE: dict[str, Any] = {"name": "a", "tasks": ["sst"], "train": "full-model"}
TOP: dict[str, Any] = {"name": "x", "encoder": "tiny", "data": "sample", "tasks": {"sst": Task(head="mlp")}}


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Stage, {**STAGE, "train": "full-modle"}, "Stage: train: 'full-modle': .*; did you mean full-model?"),
        (Stage, {"name": "a", "train": "full-model"}, "Stage: tasks: missing"),
        (Task, {"trian": "a.csv"}, "Task: trian: unknown key; known keys: .*; did you mean train?"),
        (Settings, {"lr": "fast"}, "Settings: lr: 'fast': Input should be a valid number"),
        (Split, {"dev": 0.7, "test": 0.7}, "Split: "),
        (Recipe, {**TOP, "stages": [{**STAGE, "lr": -1.0}]}, r"Recipe: stages\.a\.lr: -1\.0: "),
        (Recipe, {**TOP, "stages": [{**STAGE, "lerning": 1}]}, r"Recipe: stages\.a\.lerning: unknown key"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_object_and_the_key(kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^{said}") as caught:
        kind(**given)
    assert len(str(caught.value).splitlines()) == 1


def test_a_stage_may_leave_its_learning_rate_to_the_defaults() -> None:
    recipe = Recipe(
        **TOP, defaults=Settings(lr=2e-3), stages=[Stage(**STAGE), Stage(**{**STAGE, "name": "b"}, lr=1e-4)]
    )
    assert [stage.lr for stage in build_recipe(recipe.tree(), "r").stages] == [2e-3, 1e-4]
    with pytest.raises(UserError, match=r"^r: stages\.a\.lr: missing$"):
        build_recipe(Recipe(**TOP, stages=[Stage(**STAGE)]).tree(), "r")


def test_an_object_is_pickled_and_copied_as_any() -> None:
    stage = Stage(**STAGE, lr=1e-3)
    assert (
        pickle.loads(pickle.dumps(stage)) == stage.model_copy() == Stage.model_validate(stage.model_dump(by_alias=True))
    )
