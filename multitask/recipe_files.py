"""Recipe files: YAML with overrides, from a path or from the package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from multitask.errors import UserError
from multitask.packaged import packaged, packaged_recipes
from multitask.recipe import Recipe
from multitask.recipe_checks import build_recipe

MOST_VALUES = 20_000


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as text; everyone who writes a learning rate means a number."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """Raises UserError for what is no YAML, and for what is too much of it."""
    try:
        tree = yaml.load(text, _Loader)
    # PyYAML's constructors let through whatever Python's own raise: `2024-13-45` is a ValueError.
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {' '.join(str(error).split())}") from error
    _check_size(tree, where)
    return tree


def _check_size(tree: Any, where: str) -> None:
    """Aliases (&name, *name) can stand for themselves, or each for ten others: few lines, and no end of values."""
    left, values = [tree], 0
    while left:
        value, values = left.pop(), values + 1
        if values > MOST_VALUES:
            raise UserError(f"{where}: more than {MOST_VALUES} values, its aliases written out; no recipe has so many")
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value


def read_recipe_file(path: str) -> tuple[str, str]:
    """The text of a recipe and its path; a packaged recipe is found by its path in this repository too."""
    file = Path(path)
    if not file.is_file():
        if (found := packaged(path, "recipes")) is None:
            raise UserError(f"recipe '{path}': no such file; packaged recipes: {', '.join(packaged_recipes())}")
        return found.read_text(encoding="utf-8"), str(found)
    try:
        return file.read_text(encoding="utf-8"), path
    except UnicodeDecodeError as error:
        raise UserError(f"recipe '{path}': not a text file: {error}") from error


def load_recipe(path: str, overrides: list[str] | None = None, under: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe, applies `key=value` overrides and checks it. Raises UserError with the YAML path.

    under: task -> what a data map says of it (maps.py: `mapped`), for what the recipe does not say.
    """
    tree, where = _tree(path, overrides, under or {})
    return build_recipe(tree, where)


def load_sweep(
    path: str,
    overrides: list[str] | None,
    stage: str | None,
    sweep: dict[str, Any],
    under: Mapping[str, Any] | None = None,
) -> tuple[Recipe, str]:
    """The recipe cut down to a swept stage and what it starts from, and that stage's name.

    stage: None for the one stage that the recipe sweeps itself. sweep: as a recipe has it, its values still text; empty
    for the recipe's own. under: as in `load_recipe`. Raises UserError where nothing says what to sweep.
    """
    tree, where = _tree(path, overrides, under or {})
    recipe = build_recipe(tree, where)
    swept = [found.name for found in recipe.stages if found.sweep]
    name = stage or (swept[0] if len(swept) == 1 else "")
    if name not in [found.name for found in recipe.stages]:
        known = ", ".join(found.name for found in recipe.stages)
        said = f"--stage '{stage}'" if stage else "--stage is missing"
        raise UserError(f"{said}: {where} has the stages {known}")
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
    return build_recipe(tree, where), name


def _typed(value: Any) -> Any:
    """Words of the command line as YAML reads them: 1e-3 is a number."""
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return parse_yaml(value, value) if isinstance(value, str) else value


def _tree(path: str, overrides: list[str] | None, under: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """A recipe's YAML with what is under its tasks and the overrides in it, and where it was found."""
    text, where = read_recipe_file(path)
    tree = parse_yaml(text, where)
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a recipe is a mapping with name, encoder, tasks and stages")
    tree = _unshared(tree)
    if isinstance(tasks := tree.get("tasks"), dict):
        for name in tasks.keys() & under.keys():
            if isinstance(said := tasks[name] or {}, dict):
                tasks[name] = {**under[name], **said}
    for override in overrides or []:
        apply_override(tree, override)
    return tree, where


def _unshared(tree: Any) -> Any:
    """A copy in which no part stands in two places: YAML's aliases are one object, and an override means one place."""
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
            raise UserError(f"--set {where}: no stage '{part}'; stages: {', '.join(map(str, names))}")
        return node[names.index(part)]
    if not isinstance(node, dict):
        raise UserError(f"--set {where}: '{part}' is not a mapping")
    if node.get(part) is None:
        node[part] = {}
    return node[part]
