"""A tree of YAML, or what Python gives, against its schema, and what is wrong with it in one line."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from multitask.errors import UserError, near

Model = TypeVar("Model", bound=BaseModel)


@cache
def models_below(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Key -> the model that checks the mapping under it, for all mappings below one, however deep; a key that two
    models have, such as `tasks`, is the one whose values are checked."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            found |= {field.alias or name: inner, **models_below(inner)}
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, inside lists, mappings and alternatives too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def validated(model: type[Model], tree: Any, where: str, prefix: str) -> Model:
    """The tree as the model has it. where: the file. prefix: the key under which the tree stands there, or "". Raises
    UserError, one line, for the first of the mistakes that matter most."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise told(error, model, tree, where, prefix) from None


def told(error: ValidationError, model: type[BaseModel], tree: Any, where: str, prefix: str = "") -> UserError:
    """What pydantic found wrong with the tree, in one line."""
    problems = _relevant(error.errors())
    first = _explain(problems[0], model, tree, prefix)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return UserError(f"{where}: {first}{more}")


# Where a word or number, or else a mapping or list, is allowed, pydantic says what is wrong with each; one was meant.
_OF_WORDS = {"literal_error", "string_type", "float_type"}
_OF_MAPPINGS = {"dict_type", "model_type", "model_attributes_type"}
_OF_LISTS = {"list_type"}


def _beside(given: Any) -> set[str]:
    """The errors that tell of alternatives which were not meant where that was given."""
    if isinstance(given, dict):
        return _OF_WORDS | _OF_LISTS
    return _OF_WORDS | _OF_MAPPINGS if isinstance(given, list) else _OF_MAPPINGS | _OF_LISTS


def _relevant(problems: list[Any]) -> list[Any]:
    """The errors that matter among pydantic's, unknown keys first: a misspelt key is missing under its own name too."""
    said = [problem for problem in problems if problem["type"] not in _beside(problem["input"])]
    return sorted(said or problems, key=lambda problem: problem["type"] != "extra_forbidden")


def _explain(problem: Any, model: type[BaseModel], tree: Any, prefix: str) -> str:
    """One line: the YAML path (stages by name), the value, and what would be valid."""
    path, node = [prefix] if prefix else [], tree
    for part in problem["loc"]:
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            path.append(str(node.get("name", part)) if isinstance(node, dict) else str(part))
        elif isinstance(node, dict) and part in node:
            node = node[part]
            path.append(str(part))
    if problem["type"] == "missing":
        path.append(str(problem["loc"][-1]))
    key = ".".join(path) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, problem["loc"])
        return f"{key}: unknown key; known keys: {', '.join(known)}{near(problem['loc'][-1], known)}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    meant = near(problem["input"], re.findall(r"'([^']+)'", problem.get("ctx", {}).get("expected", "")))
    return f"{key}: {_short(problem['input'])}: {problem['msg']}{meant}"


def _known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    below = models_below(model)
    owner = next((below[part] for part in reversed(loc[:-1]) if part in below), model)
    return sorted(field.alias or name for name, field in owner.model_fields.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
