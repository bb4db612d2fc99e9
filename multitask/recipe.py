"""The recipe: its schema, strict, and YAML loading with overrides. All of it is checked before any work starts."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multitask.errors import UserError
from multitask.tasks import TASKS

Model = TypeVar("Model", bound=BaseModel)
Positive = Annotated[int, Field(ge=1, strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of recipes, stages and experiments: they become folders
# These say how a stage is run or watched, not what it computes: they are not part of a stage's fingerprint.
NOT_CONTENT = frozenset({"checkpoint_minutes", "checkpoint_steps", "validate_every", "from_"})


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class KeepBest(Strict):
    """`keep: {best: sts/pearson}`: the epoch with the highest dev metric becomes the bundle."""

    best: str


class Settings(Strict):
    """What `defaults` may say for all stages and any stage for itself.

    epochs: passes over the training data. batch_size: examples a step, over all ranks together.
    lr: peak learning rate. weight_decay, betas, eps: AdamW's. fused: torch's fused AdamW instead of ours.
    schedule, warmup: the learning rate's course; warm-up as a share of all steps.
    clip: largest gradient norm, none if null. dropout: of the sentence encodings. encoder_dropout: inside the
    encoder; null is what its config says. precision: auto, 32-true, 16-mixed, bf16-mixed or 64-true.
    max_examples: cap of each training file, never of dev.
    validate: when every task's dev metrics are measured. keep: which weights become the bundle.
    checkpoint_minutes, checkpoint_steps: how often, beside every epoch's end.
    """

    epochs: Positive = 10
    batch_size: Positive = 32
    lr: Annotated[float, Field(gt=0, strict=True)] | None = None
    weight_decay: Annotated[float, Field(ge=0, strict=True)] = 0.0
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0, strict=True)] = 1e-6
    fused: bool = False
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Rate = 0.0
    clip: Annotated[float, Field(gt=0, strict=True)] | None = None
    dropout: Rate = 0.3
    encoder_dropout: Rate | None = None
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "64-true"] = "auto"
    max_examples: Positive | None = None
    validate_every: Annotated[Literal["epoch", "stage"], Field(alias="validate")] = "epoch"
    keep: Literal["last"] | KeepBest = "last"
    checkpoint_minutes: Annotated[float, Field(gt=0, strict=True)] = 5.0
    checkpoint_steps: Positive | None = None


class Stage(Settings):
    """One training run. `from` is a stage above, `encoder`, or a bundle's URI; the default is the stage above."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    objective: Literal["supervised"] = "supervised"
    tasks: Annotated[list[str], Field(min_length=1, max_length=1)]
    train: Literal["full-model", "last-linear-layer"]
    from_: Annotated[str | None, Field(alias="from")] = None
    lr: Annotated[float, Field(gt=0, strict=True)]


class Task(Strict):
    """A task of the recipe: its head and loss, and its files where they are not the data directory's own.

    train, dev, test: fsspec URIs. columns: the task's column name -> the file's.
    """

    head: str | None = None
    loss: str | None = None
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    columns: dict[str, str] = {}


class Recipe(Strict):
    """A tree of stages over a set of tasks, from one encoder."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    encoder: str
    pooling: Literal["pooler", "cls", "mean"] | None = None
    seed: Annotated[int, Field(ge=0, strict=True)] = 11711
    data: Literal["sample"] | None = None
    max_length: Annotated[int, Field(ge=8)] = 512
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    defaults: Settings = Settings()
    stages: Annotated[list[Stage], Field(min_length=1)]

    def parent(self, stage: Stage) -> str:
        """The name of the stage it starts from, `encoder`, or a bundle's URI."""
        if stage.from_:
            return stage.from_
        index = [other.name for other in self.stages].index(stage.name)
        return self.stages[index - 1].name if index else "encoder"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-5 as text; everyone who writes a learning rate means a number."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    # PyYAML's constructors let through whatever Python's own raise: `2024-13-45` is a ValueError.
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{where}: not YAML: {' '.join(str(error).split())}") from error


def read_recipe_file(path: str) -> tuple[str, str]:
    """The text of a recipe and its path; a packaged recipe is found by its path in this repository too."""
    file = Path(path)
    if not file.is_file():
        packaged = resources.files("configs")
        name = path.removeprefix("./").removeprefix("configs/")
        choices = [name, f"{name}.yaml", f"recipes/{name}", f"recipes/{name}.yaml"]
        found = next((packaged / choice for choice in choices if (packaged / choice).is_file()), None)
        if found is None:
            raise UserError(f"recipe '{path}': no such file; packaged recipes: {', '.join(packaged_recipes())}")
        return found.read_text(encoding="utf-8"), str(found)
    try:
        return file.read_text(encoding="utf-8"), path
    except UnicodeDecodeError as error:
        raise UserError(f"recipe '{path}': not a text file: {error}") from error


def packaged_recipes() -> list[str]:
    root = Path(str(resources.files("configs")))
    return sorted(str(file.relative_to(root / "recipes")) for file in (root / "recipes").rglob("*.yaml"))


def load_recipe(path: str, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe, applies `key=value` overrides and checks it. Raises UserError with the YAML path."""
    text, where = read_recipe_file(path)
    tree = parse_yaml(text, where)
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a recipe is a mapping with name, encoder, tasks and stages")
    for override in overrides or []:
        apply_override(tree, override)
    return build_recipe(tree, where)


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


def build_recipe(tree: dict[str, Any], where: str) -> Recipe:
    """Validates a tree: `defaults` first, then every stage with the defaults under it."""
    tree = dict(tree)
    defaults = tree.get("defaults") or {}
    _validated(Settings, defaults, where, "defaults")
    if isinstance(tree.get("stages"), list):
        tree["stages"] = [{**defaults, **item} if isinstance(item, dict) else item for item in tree["stages"]]
    recipe = _validated(Recipe, tree, where, "")
    _check_stages(recipe, where)
    _check_tasks(recipe, where)
    return recipe


def _validated(model: type[Model], tree: Any, where: str, prefix: str) -> Model:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = error.errors()
        first = _explain(problems[0], model, tree, prefix)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{where}: {first}{more}") from None


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
        elif problem["type"] == "missing":
            path.append(str(part))
    key = ".".join(path) or "recipe"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; known keys: {', '.join(_known_keys(model, problem['loc']))}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: {_short(problem['input'])}: {problem['msg']}"


def _known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    nested: dict[Any, type[BaseModel]] = {
        "stages": Stage,
        "tasks": Task,
        "defaults": Settings,
        "keep": KeepBest,
    }
    owner = next((nested[part] for part in reversed(loc[:-1]) if part in nested), model)
    return sorted(field.alias or name for name, field in owner.model_fields.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_stages(recipe: Recipe, where: str) -> None:
    seen: list[str] = []
    for stage in recipe.stages:
        at = f"{where}: stages.{stage.name}"
        if stage.name in seen or stage.name == "encoder":
            raise UserError(f"{at}.name: '{stage.name}' is taken; every stage needs a name of its own, not 'encoder'")
        for task in stage.tasks:
            if task not in recipe.tasks:
                raise UserError(f"{at}.tasks: '{task}' is not among the recipe's tasks: {', '.join(recipe.tasks)}")
        parent = stage.from_
        if parent and parent != "encoder" and parent not in seen and "/" not in parent:
            known = ", ".join(["encoder", *seen])
            raise UserError(f"{at}.from: '{parent}' is no stage above it; valid: {known}, or a bundle's URI")
        metrics = [TASKS[task].metric_key for task in recipe.tasks if task in TASKS]
        if isinstance(stage.keep, KeepBest):
            if stage.keep.best not in metrics:
                raise UserError(f"{at}.keep.best: '{stage.keep.best}' is not measured; valid: {', '.join(metrics)}")
            if stage.validate_every != "epoch":
                raise UserError(f"{at}.keep: the best epoch is known only with validate: epoch, not 'stage'")
        seen.append(stage.name)


def _check_tasks(recipe: Recipe, where: str) -> None:
    from multitask.model.heads import HEADS, loss_for  # torch is not needed to read YAML

    for name, task in recipe.tasks.items():
        at = f"{where}: tasks.{name}"
        if name not in TASKS:
            raise UserError(f"{at}: unknown task '{name}'; known tasks: {', '.join(TASKS)}")
        loss_for(head_name(recipe, name), TASKS[name], task.loss, at)
        unknown = set(task.columns) - {*TASKS[name].columns, TASKS[name].label.column, "id"}
        if unknown:
            known = ", ".join([*TASKS[name].columns, TASKS[name].label.column, "id"])
            raise UserError(f"{at}.columns: '{min(unknown)}' is no column of this task; valid: {known}")
    for stage in recipe.stages:
        for name in stage.tasks:
            if stage.train == "last-linear-layer" and not HEADS[head_name(recipe, name)].trainable:
                raise UserError(
                    f"{where}: stages.{stage.name}.train: last-linear-layer leaves nothing to train, "
                    f"the head '{head_name(recipe, name)}' of {name} has no weights"
                )


def head_name(recipe: Recipe, task: str) -> str:
    return recipe.tasks[task].head or TASKS[task].head
