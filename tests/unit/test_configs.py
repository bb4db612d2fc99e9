"""Every file under configs/ loads, says how it is run, and describes a model that can be built."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from multitask.bundle.bundle import Bundle, source_bundle
from multitask.model.sources import load_source
from multitask.recipe.loading import load_recipe
from multitask.recipe.packaged import packaged_recipes
from multitask.tasks.table import TASKS
from tests.conftest import ROOT

RECIPES = packaged_recipes()
CONFIGS = ROOT / "configs"


def path_of(name: str) -> Path:
    """Recipes to train are named by their path under recipes/, those of sweeps under configs/."""
    return (CONFIGS if name.startswith("sweeps/") else CONFIGS / "recipes") / f"{name}.yaml"


@functools.cache
def tiny() -> Bundle:
    return source_bundle(load_source("tiny"))


def header(path: Path) -> str:
    """The comment lines that a file opens with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def test_the_packaged_recipes_are_those_of_this_repository() -> None:
    recipes = {file for file in CONFIGS.rglob("*.yaml") if file.parent.name != "data"}
    assert recipes == {path_of(name) for name in RECIPES}
    assert {"demo", "bertaar/para-sts_cosine-sst_last"} <= set(RECIPES)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_config_opens_with_the_command_that_runs_it(path: Path) -> None:
    command = re.search(r"^# minibert \w+ (\S+\.yaml)", header(path), re.MULTILINE)
    assert command, f"{path}: no `# minibert ...` line before its content"
    assert (ROOT / command[1]).is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_as_its_file_and_run_by_its_own_command(name: str) -> None:
    path = path_of(name)
    assert load_recipe(str(path)).name in (path.stem, f"{path.parent.name}-{path.stem}")
    command = "sweep" if name.startswith("sweeps/") else "train"
    assert f"minibert {command} {path.relative_to(ROOT)}" in header(path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_model_can_be_built_and_each_stage_trains_something(name: str) -> None:
    recipe = load_recipe(str(path_of(name)), ["encoder=tiny"])
    for stage in recipe.stages:
        model = tiny().model(recipe.heads(stage), mlm=stage.token_head())
        assert set(model.heads) == set(recipe.tasks) <= set(TASKS)
        used = {task: stage.learns.reached(model, task) for task in stage.tasks}
        model.set_trainable(used, stage.train == "full-model")
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained
        assert any(name.startswith("encoder.") for name in trained) == (stage.train == "full-model")


@pytest.mark.parametrize("name", RECIPES)
def test_only_the_demo_falls_back_to_the_sample(name: str) -> None:
    recipe = load_recipe(str(path_of(name)))
    assert (recipe.data == "sample") == (recipe.name == "demo")
