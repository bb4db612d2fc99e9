"""docs/recipes.md: every key of a recipe, from the schema that reads it. `python -m tools.recipes_page` writes it.

What a key means stands in its model's docstring, as `key: meaning.` or `key, other: meaning.`
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import configs
from multitask.recipe.checks import NESTED
from multitask.recipe.packaged import packaged, packaged_recipes
from multitask.recipe.stages import Recipe

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
KEY = r"[a-z_]+(?: \([^)]*\))?"
MEANING = re.compile(rf"(?:(?<=^)|(?<=\. ))({KEY}(?:, {KEY})*): ")
SENTENCE = re.compile(r"(?<=\.) ")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def page() -> str:
    schema = Recipe.model_json_schema()
    listed: list[type[BaseModel]] = [Recipe, *NESTED.values()]
    models = {model.__name__: model for model in listed}
    tables = {name: schema if name == "Recipe" else schema["$defs"][name] for name in models}
    parts = [HEAD, *(_section(models[name], tables[name]) for name in models), _shipped()]
    return "\n".join(parts)


def _section(model: type[Any], table: dict[str, Any]) -> str:
    """A model's keys as a table, without those that it only inherits from one that has a section of its own."""
    about, meanings = _documented(model)
    inherited = {name for base in model.__mro__[1:] for name in getattr(base, "__annotations__", {})}
    own = {name: field for name, field in model.model_fields.items() if name in model.__annotations__}
    lines = [f"## {model.__name__}\n", f"{about}\n", "| key | value | default | |", "| --- | --- | --- | --- |"]
    for name, field in own.items():
        key = field.alias or name
        facts = table["properties"][key]
        default = "**required**" if key in table.get("required", ()) else f"`{json.dumps(facts.get('default'))}`"
        if "$ref" in facts:
            default = "its own"
        if key not in meanings:
            raise ValueError(f"{model.__name__}.{key}: no `{key}: meaning.` in the docstring")
        lines.append(f"| `{key}` | {_kind(facts)} | {default} | {meanings[key]} |")
    shared = [field.alias or name for name, field in model.model_fields.items() if name in inherited - {*own}]
    if shared:
        lines.append(f"\nAnd every key of [Settings](#settings): {', '.join(f'`{name}`' for name in shared)}.")
    return "\n".join([*lines, ""])


def _documented(model: type[Any]) -> tuple[str, dict[str, str]]:
    """What the docstring says of the model, and of each key; keys explained together share the words."""
    text = " ".join((inspect.getdoc(model) or "").split())
    found = list(MEANING.finditer(text))
    about = text[: found[0].start()] if found else text
    meanings: dict[str, str] = {}
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=False):  # without keys there is an end, and no match
        said = text[match.end() : end].strip().replace("|", "\\|")
        names = [name.split(" (")[0] for name in match[1].split(", ")]
        for name in names:
            meanings[name] = said if name == names[0] else f"see `{names[0]}`"
    return about.strip(), meanings


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
