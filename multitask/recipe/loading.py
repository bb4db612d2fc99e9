"""Recipe files: YAML with overrides, from a path or from the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multitask.errors import UserError, near
from multitask.recipe.checks import build_recipe
from multitask.recipe.packaged import packaged, packaged_recipes
from multitask.recipe.parsing import parse_yaml
from multitask.recipe.stages import Recipe


def read_recipe_file(path: str) -> tuple[str, str]:
    """The text of a recipe and its path; a packaged recipe is found by its path in this repository too."""
    file = Path(path)
    if not file.is_file():
        if (found := packaged(path, "recipes")) is None:
            if beside := near(path, map(str, file.parent.glob("*.y*ml"))):
                raise UserError(f"recipe '{path}': no such file{beside}")
            names = packaged_recipes()
            meant = near(path.removesuffix(".yaml"), [*names, *(name.rpartition("/")[-1] for name in names)])
            raise UserError(f"recipe '{path}': no such file; packaged recipes: {', '.join(names)}{meant}")
        return found.read_text(encoding="utf-8"), str(found)
    try:
        return file.read_text(encoding="utf-8"), path
    except UnicodeDecodeError as error:
        raise UserError(f"recipe '{path}': not a text file: {error}") from error


def load_recipe(path: str, overrides: list[str] | None = None, under: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe, applies `key=value` overrides and checks it. Raises UserError with the YAML path.

    under: task -> what a data map says of it (data_maps.py: `mapped`), for what the recipe does not say.
    """
    return _built(path, overrides or (), under or {})[1]


def recipe_of(
    tree: Any,
    where: str,
    overrides: Sequence[str] = (),
    under: Mapping[str, Any] | None = None,
    over: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a tree as a YAML file holds it. where: what it is called in a UserError. overrides, under: as
    `load_recipe` has them. over: task -> what goes before what the recipe says of it; UserError for another task."""
    found = _completed(tree, where, overrides, under or {})
    tasks = found.get("tasks")
    for name, said in (over or {}).items():
        if not isinstance(tasks, dict) or name not in tasks:
            known = [*tasks] if isinstance(tasks, dict) else []
            raise UserError(f"data['{name}']: no task of {where}, which has {', '.join(known)}{near(name, known)}")
        tasks[name] = {**(tasks[name] or {}), **said}
    return build_recipe(found, where)


def _built(path: str, overrides: Sequence[str], under: Mapping[str, Any]) -> tuple[dict[str, Any], Recipe, str]:
    """A recipe's tree, the recipe, and where it was found. An error that an override makes names the option, not the
    recipe's file."""
    tree, where = _tree(path, overrides, under)
    try:
        return tree, build_recipe(tree, where), where
    except UserError as error:
        if culprit := _culprit(path, overrides, under, error):
            raise UserError(f"--set {culprit}: {str(error).removeprefix(f'{where}: ')}") from error
        raise


def _culprit(path: str, overrides: Sequence[str], under: Mapping[str, Any], error: UserError) -> str:
    """The first override with which the recipe is wrong in one way; "" where it is so without any."""
    for count in range(len(overrides) + 1):
        try:
            build_recipe(*_tree(path, overrides[:count], under))
        except UserError as found:
            if str(found) == str(error):
                return overrides[count - 1] if count else ""
    return ""


def load_sweep(
    path: str,
    overrides: list[str] | None,
    stage: str | None,
    sweep: dict[str, Any],
    under: Mapping[str, Any] | None = None,
) -> tuple[Recipe, str]:
    """The recipe cut down to a swept stage and what it starts from, and that stage's name.

    stage: None for the one stage that the recipe sweeps itself. sweep: the keys of a recipe's `sweep`, values still
    text; empty where the recipe's own sweep is meant. under: task -> what a data map says of it. Raises UserError where
    nothing says what to sweep.
    """
    tree, recipe, where = _built(path, overrides or (), under or {})
    swept = [found.name for found in recipe.stages if found.sweep]
    name = stage or (swept[0] if len(swept) == 1 else "")
    if name not in [found.name for found in recipe.stages]:
        known = ", ".join(found.name for found in recipe.stages)
        said = f"--stage '{stage}'" if stage else "--stage is missing"
        raise UserError(f"{said}: {where} has the stages {known}{near(stage, known.split(', '))}")
    if not sweep and name not in swept:
        raise UserError(f"stage '{name}' of {where} has no sweep; give --grid lr=1e-3,1e-4 --by METRIC")
    wanted = recipe.line(name)
    tree["stages"] = [item for item in tree["stages"] if item["name"] in wanted]
    for item in tree["stages"]:
        item["from"] = recipe.parent(recipe.stage(item["name"]))  # the stage above it may be gone
        if item["name"] == name and sweep:
            item["sweep"] = _typed(sweep)
            if isinstance(item.get("lr"), dict):  # its own sweep, in short
                item["lr"] = item["lr"]["sweep"][0]
    tree["tables"] = []
    try:
        return build_recipe(tree, where), name
    except UserError as error:
        said = str(error).removeprefix(f"{where}: stages.{name}.sweep")
        if not sweep or said == str(error):
            raise
        option = "--by" if said.startswith(".by") else "--grid or --random"
        raise UserError(f"{option}: {said.partition(': ')[2]}") from error


def _typed(value: Any) -> Any:
    """Words of the command line as YAML reads them: 1e-3 is a number."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return parse_yaml(value, value) if isinstance(value, str) else value


def _tree(path: str, overrides: Sequence[str], under: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A recipe's YAML with what is under its tasks and the overrides in it, and where it was found."""
    text, where = read_recipe_file(path)
    return _completed(parse_yaml(text, where), where, overrides, under), where


def _completed(tree: Any, where: str, overrides: Sequence[str], under: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a recipe is a mapping with name, encoder, tasks and stages")
    found: dict[str, Any] = _unshared(tree)
    if isinstance(tasks := found.get("tasks"), dict):
        for name in tasks.keys() & under.keys():
            if isinstance(said := tasks[name] or {}, dict):
                tasks[name] = {**under[name], **said}
    for override in overrides:
        apply_override(found, override)
    return found


def _unshared(tree: Any) -> Any:
    """A copy of a tree in which no part stands in two places: YAML's aliases are one object, and an override means one
    place."""
    if isinstance(tree, dict):
        return {key: _unshared(value) for key, value in tree.items()}
    return [_unshared(value) for value in tree] if isinstance(tree, list) else tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets `stages.sts.lr=3e-5` and the like in place; a stage is named, a missing mapping is made."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set '{override}': expected key=value, such as stages.sts.lr=3e-5")
    value = parse_yaml(text, f"--set {key}")
    *path, last = key.split(".")
    node: Any = tree
    for at, part in enumerate(path):
        node = _descend(node, part, ".".join(path[: at + 1]))
    if not isinstance(node, dict):
        raise UserError(f"--set {key}: '{'.'.join(path)}' is not a mapping")
    node[last] = value


def _descend(node: Any, part: str, where: str) -> Any:
    if isinstance(node, list):
        names = [item.get("name") for item in node if isinstance(item, dict)]
        if part not in names:
            stages = [str(name) for name in names]
            raise UserError(f"--set {where}: no stage '{part}'; stages: {', '.join(stages)}{near(part, stages)}")
        return node[names.index(part)]
    if not isinstance(node, dict):
        raise UserError(f"--set {where}: '{part}' is not a mapping")
    if node.get(part) is None:
        node[part] = {}
    return node[part]
