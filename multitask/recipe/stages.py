"""The recipe's schema, strict: a tree of stages, whose settings are in settings.py. loading.py reads a recipe from
YAML, checks.py checks what spans several keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PlainSerializer, WrapValidator, create_model, model_validator

from multitask.model.poolings import Pooling
from multitask.objectives.base import Objective
from multitask.objectives.distillation import Teacher
from multitask.objectives.smart import Smart
from multitask.objectives.table import DEFAULT, OBJECTIVES
from multitask.recipe.settings import Log, Overall, PaperTable, Settings, Sweep, Task
from multitask.tasks.imported import is_path
from multitask.tasks.schema import Above0, Strict
from multitask.tasks.table import TaskSpec

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of recipes, stages and experiments: they become folders
# These say how a stage is run or watched, not what it computes: they are not part of a stage's
# fingerprint; nor are those that it holds in another form.
NOT_CONTENT = frozenset(
    {
        "checkpoint_minutes",
        "checkpoint_steps",
        "validate_every",
        "profile",
        "micro_batch",
        "recompute",
        "from_",
        "heads",
        "log",
        "teachers",
    }
)


# The objectives that have options: name -> their schema.
OPTIONS = {name: found.Options for name, found in OBJECTIVES.items() if found.Options}
if TYPE_CHECKING:
    ObjectiveName = str
else:  # one of these, or an import path
    ObjectiveName = Annotated[
        Literal[tuple(OBJECTIVES)],
        WrapValidator(lambda name, known: name if is_path(name) else known(name)),
        PlainSerializer(str),
    ]


class _Trained(Settings):
    """The keys of a stage before its objective's options."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    """The stage's name, by which its bundle is found."""
    objective: ObjectiveName = DEFAULT
    """What the stage learns by; or `package.module:Name`, a class of your own."""
    own_options: Annotated[dict[str, Any], Field(alias="options")] = {}
    """The options of an objective of your own; a built-in one's stand under its name."""
    tasks: Annotated[list[str], Field(min_length=1)]
    """The tasks that are trained on."""
    train: Literal["full-model", "last-linear-layer"]
    """The whole model, or the heads' last layer over a frozen encoder."""
    from_: Annotated[str | None, Field(alias="from")] = None
    """What the stage starts from: a stage above, `encoder`, EXPERIMENT/STAGE, or a bundle's URI; the stage above
    unless said."""
    heads: dict[str, str] = {}
    """Task -> its head from this stage on, where it is not the task's own."""
    lr: Above0 = None  # type: ignore[assignment]  # a stage in Python may leave it to `defaults`, as one in YAML
    """The peak learning rate, which the stage or `defaults` has to say."""
    mixing: Literal["round-robin", "proportional", "annealed"] | dict[str, Above0] = "round-robin"
    """How the batches of several tasks follow each other (multitask/data/mixing.py); a mapping gives each task's
    weight in the draw."""
    sampler: str | None = None
    """A function of your own, `package.module:Name`, that plans each epoch's batches in place of `mixing`; null is
    none."""
    loss_weights: Literal["uncertainty"] | dict[str, Above0] = {}
    """Task -> the factor on its loss, 1 where none is given; `uncertainty` learns them (Kendall et al., 2018)."""
    surgery: Literal["none", "pcgrad", "gradvac"] = "none"
    """How conflicting gradients of tasks are changed; with any but none a step takes a batch of each task."""
    copy_top: Annotated[int, Field(ge=1, strict=True)] | None = None
    """How many of the encoder's last layers become each task's own from this stage on, as copies; null is none."""
    log: Log = Log()
    """What else TensorBoard and the report are told of the stage."""


if TYPE_CHECKING:
    _WithOptions = _Trained
else:  # a key for each objective that has options
    _WithOptions = create_model("_WithOptions", __base__=_Trained, **{name: (it, it()) for name, it in OPTIONS.items()})


class Stage(_WithOptions):
    """One training run."""

    smart: Smart | None = None
    """Regularisation of a supervised stage; null is none."""
    teachers: dict[str, Teacher] = {}
    """Task -> what it learns from beside its labels, in a supervised stage."""
    sweep: Sweep | None = None
    """Settings to try; `lr: {sweep: [1.0e-3, 1.0e-4], by: METRIC}` is short for a grid of that one setting."""

    @model_validator(mode="before")
    @classmethod
    def _swept_in_place(cls, tree: Any) -> Any:
        """A stage's tree whose sweep in short form, `lr: {sweep: [...], by: METRIC}`, is put under `sweep`; `lr` itself
        gets the first value."""
        short = tree.get("lr") if isinstance(tree, dict) else None
        if not isinstance(short, dict) or not isinstance(short.get("sweep"), list) or not short["sweep"]:
            return tree
        if tree.get("sweep"):
            raise ValueError("lr has a sweep, and the stage another one; put lr into the stage's grid")
        sweep = {**{key: value for key, value in short.items() if key != "sweep"}, "grid": {"lr": short["sweep"]}}
        return {**tree, "lr": short["sweep"][0], "sweep": sweep}

    @property
    def learns(self) -> type[Objective]:
        """The objective itself."""
        return OBJECTIVES[self.objective]

    @property
    def options(self) -> Any:
        """The objective's own options; None where it has none."""
        if not is_path(self.objective):
            return getattr(self, self.objective, None)
        return self.learns.Options.model_validate(self.own_options) if self.learns.Options else None

    @property
    def options_key(self) -> str:
        """The key of the stage under which these options stand."""
        return "options" if is_path(self.objective) else self.objective

    @property
    def own_code(self) -> list[str | None]:
        """What the stage itself names that may be the user's own code."""
        return [self.objective, self.sampler, *self.callbacks]

    @property
    def wants_similar(self) -> bool:
        """Whether each of its tasks needs labels that say which pairs are similar."""
        return self.learns.wants_similar(self.options)

    def trains_head(self, task: str) -> bool:
        """Whether one of its tasks' heads learns: not where a teacher's encodings are all that the task learns."""
        teacher = self.teachers.get(task)
        return self.learns.uses_head and not (teacher and teacher.embeddings and teacher.weight == 1)

    @property
    def branches(self) -> dict[str, int]:
        """Task -> how many of the encoder's last layers become its own."""
        return dict.fromkeys(self.tasks, self.copy_top) if self.copy_top else {}

    @property
    def batches_a_step(self) -> int:
        """How many batches, of a task each, a step takes."""
        return len(self.tasks) if self.surgery != "none" else 1

    def token_head(self, brought: str | None = None) -> str | None:
        """The masked-language head that the stage trains, tied or untied; brought: the one that its start has."""
        return self.learns.token_head(self.options, brought)

    def content(self) -> dict[str, Any]:
        """What the stage's outcome depends on: its settings, but for those that say nothing about such a stage."""
        unused = {name for name, applies in APPLIES.items() if not applies(self)}
        found = self.model_dump(mode="json", by_alias=True, exclude={*NOT_CONTENT, *unused})
        if self.smart and self.smart.tasks is None:  # as older builds have it
            del found["smart"]["tasks"]
        return found


# Settings that older builds did not have: at their default, a stage is the one that it was.
LATER = ("layer_decay", "lr_scale", "freeze", "unfreeze", "reinit", "patience", "rdrop", "callbacks")


def says(settings: Settings, name: str) -> bool:
    """Whether a setting is not at its default."""
    return bool(getattr(settings, name) != Settings.model_fields[name].default)


# Settings that say nothing about some stages: a setting of another objective does not make a stage another one.
APPLIES: dict[str, Callable[[Stage], bool]] = {
    "dropout": lambda stage: stage.learns.reads_sentences,
    "mixing": lambda stage: len(stage.tasks) > 1,
    "loss_weights": lambda stage: bool(stage.loss_weights),
    "surgery": lambda stage: stage.surgery != "none",
    "copy_top": lambda stage: stage.copy_top is not None,
    "sampler": lambda stage: stage.sampler is not None,
    "own_options": lambda stage: bool(stage.own_options),
    "smart": lambda stage: stage.smart is not None,
    "average": lambda stage: stage.average is not None,
    "compress": lambda stage: stage.compress != "none",
    "sweep": lambda stage: False,  # its trials are stages of their own
    **{name: lambda stage, name=name: says(stage, name) for name in LATER},  # type: ignore[misc]
    **{name: lambda stage, name=name: stage.objective == name for name in OPTIONS},  # type: ignore[misc]
}


class Recipe(Strict):
    """A tree of stages over a set of tasks, from one encoder."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    """The recipe's name, and its experiments' unless they are given another."""
    encoder: str
    """What the first stage starts from."""
    pooling: Pooling | None = None
    """How tokens become a sentence encoding; the encoder's own way unless said."""
    seed: Annotated[int, Field(ge=0, strict=True)] = 11711
    """The seed of everything that is drawn."""
    data: Literal["sample"] | None = None
    """`sample` where --data is not needed."""
    max_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of a text, beyond which it is cut."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The share of a file's rows that may be unusable; they are left out, and listed."""
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    """Task -> its head and files; all are measured on dev after every epoch."""
    defaults: Settings = Settings()
    """Settings of every stage that says no other."""
    stages: Annotated[list[Stage], Field(min_length=1)]
    """The stages, in the order in which they are run."""
    overall: Overall | None = None
    """What the overall scores are made of; the papers' three tasks unless said."""
    tables: list[PaperTable] = []
    """The papers' tables that `minibert report` shows."""

    def tree(self) -> dict[str, Any]:
        """What a YAML file of the recipe holds: all that was said, and nothing that is a default."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """What its tasks are."""
        return {name: task.spec(name) for name, task in self.tasks.items()}

    @property
    def overall_of(self) -> list[str]:
        """The metrics that its overall scores are made of, where it says so itself; none for the papers' three."""
        if self.overall is None:
            return []
        specs, measure = self.specs, self.overall.measure
        return [f"{task}/{measure.get(task, specs[task].metric)}" for task in self.overall.tasks]

    @property
    def measures(self) -> list[str]:
        """The metrics that tasks are measured by beside their own, as TASK/METRIC."""
        return [f"{name}/{metric}" for name, task in self.tasks.items() for metric in task.measures]

    def parent(self, stage: Stage) -> str:
        """The name of the stage it starts from, `encoder`, or a bundle's URI."""
        if stage.from_:
            return stage.from_
        index = [other.name for other in self.stages].index(stage.name)
        return self.stages[index - 1].name if index else "encoder"

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def named_metrics(self) -> list[str]:
        """The metrics that it names, whichever tasks they are of."""
        counting = self.overall.measure.values() if self.overall else []
        return [*(metric for task in self.tasks.values() for metric in task.measures), *counting]

    @property
    def own_code(self) -> list[str]:
        """The import paths that it names: heads, losses, measures, and what its stages name."""
        named = [*(name for task in self.tasks.values() for name in (task.head, task.loss)), *self.named_metrics]
        named += [name for stage in self.stages for name in (*stage.heads.values(), *stage.own_code)]
        return sorted({name for name in named if name and is_path(name)})

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

    def loss_settings(self, stage: Stage) -> dict[str, dict[str, Any]]:
        """Task that the stage trains through its head -> the settings of its loss that are not its defaults."""
        trained = stage.tasks if stage.learns.uses_head else []
        return {name: found for name in trained if (found := self.tasks[name].loss_settings)}

    def _above(self, stage: Stage) -> Stage | None:
        return next((other for other in self.stages if other.name == self.parent(stage)), None)
