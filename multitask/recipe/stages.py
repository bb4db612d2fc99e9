"""The recipe's schema, strict: a tree of stages, which are made of recipe_parts.py. recipe_files.py reads it from YAML,
recipe_checks.py checks what spans several keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from multitask.model.poolings import Pooling
from multitask.recipe.settings import Above0, Mlm, PaperTable, Ranking, Settings, Smart, Sweep, Task
from multitask.tasks.own import Strict
from multitask.tasks.table import TaskSpec

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of recipes, stages and experiments: they become folders
# These say how a stage is run or watched, not what it computes: they are not part of a stage's
# fingerprint; nor are those that it holds in another form.
NOT_CONTENT = frozenset({"checkpoint_minutes", "checkpoint_steps", "validate_every", "profile", "from_", "heads"})


class Stage(Settings):
    """One training run.

    name: of the stage; what its bundle is found by. objective: what is learned. tasks: those that are trained on.
    train: the whole model, or the heads' last layer over a frozen encoder. lr: peak learning rate.
    from: a stage above, `encoder`, EXPERIMENT/STAGE, or a bundle's URI; the stage above unless said.
    heads: task -> head, from this stage on, where it is not the task's own.
    mixing: how the batches of several tasks follow each other (multitask/data/mixing.py); a mapping gives each
    task's weight in the draw. loss_weights: factors on the tasks' losses, 1 where none is given.
    mlm, ranking: those objectives' options. smart: regularisation of a supervised stage, none if null.
    sweep: settings to try; `lr: {sweep: [1.0e-3, 1.0e-4], by: METRIC}` is short for a grid of that one setting.
    """

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    objective: Literal["supervised", "mlm", "ranking", "completion"] = "supervised"
    tasks: Annotated[list[str], Field(min_length=1)]
    train: Literal["full-model", "last-linear-layer"]
    from_: Annotated[str | None, Field(alias="from")] = None
    heads: dict[str, str] = {}
    lr: Above0
    mixing: Literal["round-robin", "proportional", "annealed"] | dict[str, Above0] = "round-robin"
    loss_weights: dict[str, Above0] = {}
    mlm: Mlm = Mlm()
    ranking: Ranking = Ranking()
    smart: Smart | None = None
    sweep: Sweep | None = None

    @model_validator(mode="before")
    @classmethod
    def _swept_in_place(cls, tree: Any) -> Any:
        """The short form, put where the long one is; the first value is what the setting itself says."""
        short = tree.get("lr") if isinstance(tree, dict) else None
        if not isinstance(short, dict) or not isinstance(short.get("sweep"), list) or not short["sweep"]:
            return tree
        if tree.get("sweep"):
            raise ValueError("lr has a sweep, and the stage another one; put lr into the stage's grid")
        sweep = {**{key: value for key, value in short.items() if key != "sweep"}, "grid": {"lr": short["sweep"]}}
        return {**tree, "lr": short["sweep"][0], "sweep": sweep}

    def token_head(self, brought: str | None = None) -> str | None:
        """The masked-language head that the stage trains: mlm's setting; completion goes on with the one `brought`."""
        return {"mlm": self.mlm.head, "completion": brought or "tied"}.get(self.objective)

    def content(self) -> dict[str, Any]:
        """What the stage's outcome depends on: of the settings, those that apply to it."""
        unused = {name for name, applies in APPLIES.items() if not applies(self)}
        return self.model_dump(mode="json", exclude={*NOT_CONTENT, *unused})


# Settings that say nothing about some stages: a setting of another objective does not make a stage another one.
APPLIES: dict[str, Callable[[Stage], bool]] = {
    # It is of sentence encodings, which these have none of.
    "dropout": lambda stage: stage.objective not in ("mlm", "completion"),
    "mixing": lambda stage: len(stage.tasks) > 1,
    "loss_weights": lambda stage: bool(stage.loss_weights),
    "mlm": lambda stage: stage.objective == "mlm",
    "ranking": lambda stage: stage.objective == "ranking",
    "smart": lambda stage: stage.smart is not None,
    "compress": lambda stage: stage.compress != "none",
    "sweep": lambda stage: False,  # its trials are stages of their own
}


class Recipe(Strict):
    """A tree of stages over a set of tasks, from one encoder.

    name: of the recipe, and of its experiments unless they are given another. encoder: what the first stage starts
    from. pooling: how tokens become a sentence; the encoder's own unless said. seed: of everything that is drawn.
    data: `sample` where --data is not needed. max_length: tokens of a text, beyond which it is cut.
    max_bad_rows: share of a file's rows that may be unusable; they are left out, and listed. tasks: name -> its head
    and files; all are measured on dev after every epoch. defaults: settings of every stage that says no other.
    stages: in the order in which they are run. tables: the papers' tables that `minibert report` shows.
    """

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    encoder: str
    pooling: Pooling | None = None
    seed: Annotated[int, Field(ge=0, strict=True)] = 11711
    data: Literal["sample"] | None = None
    max_length: Annotated[int, Field(ge=8)] = 512
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    defaults: Settings = Settings()
    stages: Annotated[list[Stage], Field(min_length=1)]
    tables: list[PaperTable] = []

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """What its tasks are."""
        return {name: task.spec(name) for name, task in self.tasks.items()}

    def parent(self, stage: Stage) -> str:
        """The name of the stage it starts from, `encoder`, or a bundle's URI."""
        if stage.from_:
            return stage.from_
        index = [other.name for other in self.stages].index(stage.name)
        return self.stages[index - 1].name if index else "encoder"

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def line(self, name: str) -> list[str]:
        """A stage's name and those of all that it comes from, first to last."""
        above = self._above(self.stage(name))
        return [*(self.line(above.name) if above else []), name]

    def children(self, stage: Stage) -> list[Stage]:
        """The stages that start from it; a leaf of the tree has none."""
        return [other for other in self.stages if self.parent(other) == stage.name]

    def root(self, stage: Stage) -> str:
        """What the first of its ancestors starts from: `encoder`, or a bundle's URI."""
        above = self._above(stage)
        return self.root(above) if above else self.parent(stage)

    def heads(self, stage: Stage, carried: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, str]:
        """Task -> head name in that stage: its own, else its parent's, else the task's.

        carried: root -> the heads that its bundle brings along, for tasks that name none.
        """
        above = self._above(stage)
        if above:
            return self.heads(above, carried) | stage.heads
        brought = (carried or {}).get(self.parent(stage), {})
        return {
            name: task.head or brought.get(name) or task.spec(name).head for name, task in self.tasks.items()
        } | stage.heads

    def _above(self, stage: Stage) -> Stage | None:
        return next((other for other in self.stages if other.name == self.parent(stage)), None)
