"""What a recipe's stages and tasks are made of: settings, objectives' options, sweeps, files, tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from multitask.tasks.own import Definition, Strict, spec_of
from multitask.tasks.table import TASKS, TaskSpec

Positive = Annotated[int, Field(ge=1, strict=True)]
Above0 = Annotated[float, Field(gt=0, strict=True)]
AtLeast0 = Annotated[float, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]
Files = str | Annotated[list[str], Field(min_length=1)] | None


class KeepBest(Strict):
    """`keep: {best: sts/pearson}`: the bundle is of the epoch that is best by a dev metric.

    best: the metric.
    """

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
    """Values to draw from.

    low, high: its ends. log: draw evenly over their logarithms, as learning rates want.
    """

    low: float
    high: float
    log: bool = True


class Sweep(Strict):
    """A stage trained once for each of several settings (trials); the best of them is what the stage hands on.

    grid: setting -> its values, every combination is a trial. random: setting -> a span to draw from; each draw also
    takes one of the grid's values. samples: how many trials are drawn. by: the dev metric that decides.
    asha: stop a trial that lags behind at the end of epochs 1, 3, 9, ... (Li et al., 2020).
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
    encoder; null is what its config says. precision: of the arithmetic; auto is bf16-mixed where a GPU has it, 16-mixed
    on older ones, 32-true on CPUs; bf16-true keeps weights and moments in 16 bits too, which small updates get lost in.
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
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "auto"
    compress: Literal["none", "bf16"] = "none"
    max_examples: Positive | None = None
    validate_every: Annotated[Literal["epoch", "stage"], Field(alias="validate")] = "epoch"
    keep: Literal["last"] | KeepBest = "last"
    checkpoint_minutes: Above0 = 5.0
    checkpoint_steps: Positive | None = None
    profile: bool = False


class Task(Strict):
    """A task of the recipe, or of a data map (docs/data.md): its head and loss, and its files where they are not the
    data directory's own.

    define: what the task is, where it is not built in. head: what answers it; the bundle's, or the task's own, unless
    said. loss: what the head learns from; what fits it unless said. train, dev, test: a file's path or URI, a list of
    them that are read one after the other, or a pattern with `*`; test needs no labels. columns: the task's column
    name -> the file's, or its place from 0 in a CSV or TSV without a header. note: what whoever reads a score has to
    know of the labels; it goes into the bundles.
    """

    define: Definition | None = None
    head: str | None = None
    loss: str | None = None
    note: str | None = None
    train: Files = None
    dev: Files = None
    test: Files = None
    columns: dict[str, str | Annotated[int, Field(ge=0, strict=True)]] = {}

    def spec(self, name: str) -> TaskSpec:
        """What the task of that name is; KeyError where it is neither defined nor built in."""
        return spec_of(name, self.define, f"tasks.{name}.define") if self.define else TASKS[name]


class DataMap(Strict):
    """Where tasks' files lie, in a file of its own.

    tasks: name -> its files.
    """

    tasks: Annotated[dict[str, Task], Field(min_length=1)]


class Condition(Strict):
    """A column (or row) of a table.

    stage: the one whose figures it shows, or `encoder`. paper: metric -> the paper's figure.
    """

    stage: str
    paper: dict[str, float] = {}


class PaperTable(Strict):
    """A paper's table, for the report.

    title, source: the table's, and where the paper has it. layout: the paper's. metrics: metric -> the paper's word for
    it. conditions: the paper's word -> what it is here. note: printed below.
    """

    title: str
    source: str
    layout: Literal["conditions-as-columns", "conditions-as-rows"] = "conditions-as-columns"
    metrics: Annotated[dict[str, str], Field(min_length=1)]
    conditions: Annotated[dict[str, Condition], Field(min_length=1)]
    note: str | None = None
