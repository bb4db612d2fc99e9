"""docs/recipes.md: every key of a recipe, from the schema that reads it. `python -m tools.recipes_page` writes it.

What a key means stands under its field, as a string.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import configs
from multitask.recipe.packaged import packaged, packaged_recipes
from multitask.recipe.settings import Settings
from multitask.recipe.stages import OPTIONS, Recipe
from multitask.tasks.validating import models_below

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
HEAD = """# Recipes

<!-- Made by `python -m tools.recipes_page` from multitask/recipe/*.py and configs/; a test holds it to that. -->

A recipe is a YAML file: a tree of stages over a set of tasks, from one encoder. It is read strictly: an unknown key, a
value out of its range, a stage that nothing defines is refused before anything runs, with its path, the value and the
valid ones. `--set defaults.epochs=1`, `--set stages.sts.lr=3e-5`, `--set tasks.quora.head=interaction` override it,
stages by their names.

```yaml
name: mine
encoder: minilm-l6
tasks:
  sst: {head: mlp}
  quora: {head: mlp}
defaults: {epochs: 2, batch_size: 32}
stages:
  - {name: mlm, objective: mlm, tasks: [sst, quora], train: full-model, lr: 1.0e-5, mlm: {replace: bert}}
  - {name: both, tasks: [sst, quora], train: full-model, lr: 5.0e-5, mixing: annealed, loss_weights: {sst: 0.5}}
  - {name: sst, tasks: [sst], train: last-linear-layer, lr: {sweep: [1.0e-2, 1.0e-3], by: sst/accuracy}}
  - {name: other, from: mlm, tasks: [sst], train: full-model, lr: 3.0e-5}
```

`encoder`: `tiny` (2 layers, random weights by seed), `minilm-l6` (all-MiniLM-L6-v2 from a package, no download), a
Hugging Face BERT's directory or URI, a hub id such as `bert-base-uncased`, or a bundle, which brings its heads along.
The papers used bert-base-uncased and its learning rates; the recipes' headers say so. What a sweep says, and how to go
on from one: [sweeps](sweeps.md).
"""
SENTENCE = re.compile(r"(?<=\.) ")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page() -> str:
    schema = Recipe.model_json_schema()
    listed: list[type[BaseModel]] = [Recipe, *models_below(Recipe).values()]
    models = {model.__name__: model for model in listed}
    tables = {name: schema if name == "Recipe" else schema["$defs"][name] for name in models}
    parts = [HEAD, *(_section(models[name], tables[name]) for name in models), _shipped()]
    return "\n".join(parts)


def _section(model: type[BaseModel], table: dict[str, Any]) -> str:
    """A model's keys as a table; those of Settings, where it has them too, by name alone."""
    shared = Settings.model_fields if model is not Settings and issubclass(model, Settings) else {}
    meanings = meanings_of(model)
    lines = [f"## {model.__name__}\n", f"{_line(inspect.getdoc(model))}\n"]
    lines += ["| key | value | default | |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if name in shared and name not in model.__annotations__ and not field.is_required():
            continue
        key = field.alias or name
        facts = table["properties"][key]
        default = "**required**" if key in table.get("required", ()) else f"`{json.dumps(facts.get('default'))}`"
        if "$ref" in facts:
            default = "its own"
        if name not in meanings:
            raise ValueError(f"{model.__name__}.{name}: no string below the field says what it means")
        lines.append(f"| `{key}` | {_kind(facts)} | {default} | {meanings[name]} |")
    if shared:
        names = [field.alias or name for name, field in shared.items() if not model.model_fields[name].is_required()]
        lines.append(f"\nAnd every key of [Settings](#settings): {', '.join(f'`{name}`' for name in names)}.")
    return "\n".join([*lines, ""])


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string under it, in the class or in one that it comes from; an objective's options by its name."""
    found = {name: f"Options of the objective `{name}`." for name in OPTIONS}
    for kind in reversed(model.__mro__):
        if kind.__module__.startswith("multitask.") and kind.__name__ != "_WithOptions":
            found |= _strings(ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0])
    return found


def _strings(tree: Any) -> dict[str, str]:
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = _line(ast.literal_eval(below.value)).replace("|", "\\|")
    return found


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _kind(facts: dict[str, Any]) -> str:
    """A JSON schema's type in a few words."""
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(_kind(part) for part in facts["anyOf"]))
    if "$ref" in facts:
        name = facts["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in facts or "const" in facts:
        return ", ".join(f"`{value}`" for value in facts.get("enum", [facts.get("const")]))
    if facts.get("type") == "array":
        parts = facts.get("prefixItems") or [facts["items"]]
        return f"{len(parts)} times {_kind(parts[0])}" if "prefixItems" in facts else f"list of {_kind(parts[0])}"
    if facts.get("type") == "object":
        values = facts.get("additionalProperties")
        return f"name: {_kind(values)}" if isinstance(values, dict) and values else "mapping"
    bounds = " ".join(f"{sign} {facts[name]:g}" for name, sign in BOUNDS.items() if name in facts)
    return f"{facts.get('type', 'any')} {bounds}".strip()


def _shipped() -> str:
    """The packaged recipes with the first lines of their comments."""
    root = Path(configs.__file__).parent
    about = "Named as the first column says, or by their path; those of sweeps/ are for `minibert sweep`.\n"
    lines = ["## Shipped\n", about, "| recipe | |", "| --- | --- |"]
    for name in packaged_recipes():
        file = packaged(name, "recipes")
        assert file
        comment = " ".join(line[2:] for line in file.read_text().splitlines() if line.startswith("# "))
        lines.append(f"| [{name}](../configs/{file.relative_to(root).as_posix()}) | {SENTENCE.split(comment)[0]} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE, file=sys.stderr)
