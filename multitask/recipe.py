"""The recipe's schema, strict. recipe_files.py reads it from YAML, recipe_checks.py checks what spans several keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from multitask.definitions import STRICT, Definition, spec_of
from multitask.tasks import TASKS, TaskSpec

Positive = Annotated[int, Field(ge=1, strict=True)]
Above0 = Annotated[float, Field(gt=0, strict=True)]
AtLeast0 = Annotated[float, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]
Files = str | Annotated[list[str], Field(min_length=1)] | None
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"  # of recipes, stages and experiments: they become folders
# These say how a stage is run or watched, not what it computes: they are not part of a stage's
# fingerprint; nor are those that it holds in another form.
NOT_CONTENT = frozenset({"checkpoint_minutes", "checkpoint_steps", "validate_every", "profile", "from_", "heads"})


class Strict(BaseModel):
    model_config = STRICT


class KeepBest(Strict):
    """`keep: {best: sts/pearson}`: the epoch with the best dev metric becomes the bundle."""

    best: str


class Mlm(Strict):
    """The objective `mlm` (mlm-mnrl.txt, 4.2).

    rate: each token's own chance of being masked. replace: by [MASK] always, as the paper, or as BERT: by [MASK] in
    80 %, by a random token in 10 %, by itself in 10 %. head: whether the vocabulary's weights are the embeddings'.
    """

    rate: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.15
    replace: Literal["mask", "bert"] = "mask"
    head: Literal["tied", "untied"] = "tied"


class Ranking(Strict):
    """The objective `ranking`, multiple negatives (mlm-mnrl.txt, 4.3).

    scale: of the cosine; the paper's formula has 1. symmetric: rank first sentences for second ones too.
    hard_negatives: add, for each similar pair, a sentence that the data calls dissimilar to one of its two.
    """

    scale: Above0 = 20.0
    symmetric: bool = False
    hard_negatives: bool = False


class Smart(Strict):
    """SMART, regularised fine-tuning (Jiang et al., 2020), its letters in brackets.

    weight (lambda_s): of the smoothness term. radius (epsilon), step (eta), noise (sigma), iterations (T): of the
    adversary in the embedding space. proximal (mu): weight of the Bregman term. momentum (beta): of its average.
    Its published radius, step and noise, 1e-5, 1e-3 and 1e-5, change MiniLM's outputs by 1e-9 (docs/log.md); ours
    do by 1e-3.
    """

    weight: AtLeast0 = 1.0
    radius: Above0 = 1e-2
    step: Above0 = 1e-1
    noise: Above0 = 1e-3
    iterations: Positive = 1
    proximal: AtLeast0 = 1.0
    momentum: Rate = 0.99


class Span(Strict):
    """Values to draw from, between both ends; log: evenly over their logarithms, as learning rates want."""

    low: float
    high: float
    log: bool = True


class Sweep(Strict):
    """A stage trained once for each of several settings (trials); the best of them is what the stage hands on.

    grid: setting -> its values, every combination is a trial. random: setting -> a span; `samples` trials draw from
    it, and each of them from the grid's values. by: the dev metric that decides. asha: a trial that lags behind at an
    epoch's end is stopped (Li et al., 2020).
    """

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    random: dict[str, Span] = {}
    samples: Positive = 8
    by: str
    asha: bool = False


class Settings(Strict):
    """What `defaults` may say for all stages and any stage for itself.

    epochs: passes over the training data. batch_size: examples a step, over all ranks together.
    lr: peak learning rate. weight_decay, betas, eps: AdamW's. fused: torch's fused AdamW instead of ours.
    schedule, warmup: the learning rate's course; warm-up as a share of all steps.
    clip: largest gradient norm, none if null. dropout: of the sentence encodings. encoder_dropout: inside the
    encoder; null is what its config says. precision: auto, 32-true, 16-mixed, bf16-mixed or 64-true.
    max_examples: cap of each training file, never of dev.
    validate: when every task's dev metrics are measured. keep: which weights become the bundle.
    compress: how gradients travel between ranks; bf16 halves the bytes and rounds them.
    checkpoint_minutes, checkpoint_steps: how often, beside every epoch's end.
    profile: leave a trace of ten steps in the trainer's folder.
    """

    epochs: Positive = 10
    batch_size: Positive = 32
    lr: Above0 | None = None
    weight_decay: AtLeast0 = 0.0
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Above0 = 1e-6
    fused: bool = False
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Rate = 0.0
    clip: Above0 | None = None
    dropout: Rate = 0.3
    encoder_dropout: Rate | None = None
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "64-true"] = "auto"
    compress: Literal["none", "bf16"] = "none"
    max_examples: Positive | None = None
    validate_every: Annotated[Literal["epoch", "stage"], Field(alias="validate")] = "epoch"
    keep: Literal["last"] | KeepBest = "last"
    checkpoint_minutes: Above0 = 5.0
    checkpoint_steps: Positive | None = None
    profile: bool = False


class Stage(Settings):
    """One training run. `from` is a stage above, `encoder`, or a bundle's URI; the default is the stage above.

    heads: task -> head, from this stage on, where it is not the task's own.
    mixing: how the batches of several tasks follow each other (multitask/data/mixing.py); a mapping gives each
    task's weight in the draw. loss_weights: factors on the tasks' losses, 1 where none is given.
    mlm, ranking: of those objectives. smart: regularisation of a supervised stage, none if null.
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


class Task(Strict):
    """A task of the recipe, or of a data map (docs/data.md): its head and loss, and its files where they are not the
    data directory's own.

    define: what the task is, where it is not built in. train, dev, test: a file's path or URI, a list of them that are
    read one after the other, or a pattern with `*`; test needs no labels. columns: the task's column name -> the
    file's. note: what whoever reads a score has to know of the labels; it goes into the bundles.
    """

    define: Definition | None = None
    head: str | None = None
    loss: str | None = None
    note: str | None = None
    train: Files = None
    dev: Files = None
    test: Files = None
    columns: dict[str, str] = {}

    def spec(self, name: str) -> TaskSpec:
        """What the task of that name is; KeyError where it is neither defined nor built in."""
        return spec_of(name, self.define, f"tasks.{name}.define") if self.define else TASKS[name]


class DataMap(Strict):
    """Where tasks' files lie, in a file of its own."""

    tasks: Annotated[dict[str, Task], Field(min_length=1)]


class Condition(Strict):
    """A column (or row) of a table: the stage it shows, or `encoder`; metric -> the paper's figure."""

    stage: str
    paper: dict[str, float] = {}


class Table(Strict):
    """A paper's table, for the report. metrics: metric -> the paper's words. conditions: the paper's words -> stage."""

    title: str
    source: str
    layout: Literal["conditions-as-columns", "conditions-as-rows"] = "conditions-as-columns"
    metrics: Annotated[dict[str, str], Field(min_length=1)]
    conditions: Annotated[dict[str, Condition], Field(min_length=1)]
    note: str | None = None


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
    tables: list[Table] = []

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
