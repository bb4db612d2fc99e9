"""What a recipe's stages and tasks are made of: settings, sweeps, files, tables."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from multitask.data.file_parts import Part
from multitask.errors import UserError
from multitask.tasks.own import Definition, Pairing, Word, paired, spec_of
from multitask.tasks.schema import Above0, AtLeast0, Positive, Rate, Strict
from multitask.tasks.table import TASKS, TaskSpec

Share = Annotated[float, Field(gt=0, le=1, strict=True)]
Files = str | Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, Share], Field(min_length=1)] | None


class KeepBest(Strict):
    """`keep: {best: sts/pearson}`: the bundle is of the epoch that is best by a dev metric."""

    best: str
    """The dev metric."""


class Averaging(Strict):
    """`average: {ema: 0.999}` or `average: {last: 3}`: averaged weights are measured and become the bundle; training
    itself goes on from the weights as they are."""

    ema: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = None
    """The decay of an exponential moving average, update by update (Polyak and Juditsky, 1992)."""
    last: Annotated[int, Field(ge=2, strict=True)] | None = None
    """How many of the newest epochs' last weights are averaged."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Averaging:
        if (self.ema is None) == (self.last is None):
            raise ValueError("exactly one of ema and last says how weights are averaged")
        return self


class Span(Strict):
    """Values to draw from."""

    low: float
    """The least value."""
    high: float
    """The greatest value."""
    log: bool = True
    """Draw evenly over the values' logarithms, as learning rates want."""


class Sweep(Strict):
    """A stage trained once for each of several settings (trials); the best of them is what the stage hands on."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Setting -> its values, every combination is a trial."""
    random: dict[str, Span] = {}
    """Setting -> a span to draw from; each draw also takes one of the grid's values."""
    samples: Positive = 8
    """How many trials are drawn."""
    by: str
    """The dev metric that decides."""
    asha: bool = False
    """Stop a trial that lags behind at the end of epochs 1, 3, 9, ... (Li et al., 2020)."""


class LrScale(Strict):
    """`lr_scale: {encoder: 0.1}`: factors on the learning rate by part of the model."""

    heads: Above0 = 1.0
    """The heads', that of hidden tokens among them."""
    encoder: Above0 = 1.0
    """The encoder's layers' and its pooler's."""
    embeddings: Above0 | None = None
    """The embeddings'; the encoder's unless said."""

    @property
    def factors(self) -> dict[str, float]:
        """Part -> its factor."""
        return {"heads": self.heads, "encoder": self.encoder, "embeddings": self.embeddings or self.encoder}


class Settings(Strict):
    """What `defaults` may say for all stages and any stage for itself."""

    epochs: Positive = 10
    """Passes over the training data."""
    batch_size: Positive = 32
    """Examples a step, over all ranks together."""
    lr: Above0 | None = None
    """Peak learning rate, which each stage has from `defaults` or of its own."""
    weight_decay: AtLeast0 = 0.0
    """AdamW's decoupled decay: each step takes the learning rate times this share of every weight."""
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    """AdamW's decay rates of the running means of gradients and of their squares."""
    eps: Above0 = 1e-6
    """AdamW's addend to the root of the mean square."""
    fused: bool = False
    """torch's fused AdamW instead of ours."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate's course after its warm-up."""
    warmup: Rate = 0.0
    """The share of all steps in which the learning rate rises from 0."""
    layer_decay: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    """The factor on the learning rate from a layer to the one below: the last layer has it once, the embeddings once
    more than the first layer, heads and pooler not at all."""
    lr_scale: LrScale | None = None
    """Factors on the learning rate by part of the model; null is 1 for all."""
    freeze: Annotated[int, Field(ge=0, strict=True)] | None = None
    """The embeddings and so many first layers stay as they are; 0 is the embeddings alone, null nothing."""
    unfreeze: Positive | None = None
    """Gradual unfreezing: in the first epoch the heads and so many last layers learn, in each further one so many
    more, in the end the embeddings; null is all from the start."""
    reinit: Annotated[int, Field(ge=0, strict=True)] = 0
    """How many last layers, with the pooler, start from new weights, drawn by the seed; 0 is none, and no pooler."""
    clip: Above0 | None = None
    """The largest gradient norm; null is none."""
    dropout: Rate = 0.3
    """The share of each sentence encoding that is dropped."""
    encoder_dropout: Rate | None = None
    """The share that is dropped inside the encoder; null is what its config says."""
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "auto"
    """The arithmetic's number format; auto is bf16-mixed where a GPU has it, 16-mixed on older ones, 32-true on CPUs.
    bf16-true keeps weights and moments in 16 bits too, which small updates get lost in."""
    compress: Literal["none", "bf16"] = "none"
    """How gradients travel between ranks; bf16 halves the bytes and rounds them."""
    micro_batch: Positive | Literal["auto"] | None = None
    """Examples of a rank whose activations are held at a time; each part's are computed again for the backward pass, so
    the step is of the whole batch and takes a third longer; null is all. auto is all where a GPU can hold them, and of
    longer batches as many as it can."""
    recompute: bool = False
    """Hold the inputs of the encoder's layers alone, and compute each layer again for the backward pass."""
    max_examples: Positive | None = None
    """The most examples taken of each training file; dev files are never cut."""
    validate_every: Annotated[Literal["epoch", "stage"], Field(alias="validate")] = "epoch"
    """When every task's dev metrics are measured."""
    keep: Literal["last"] | KeepBest = "last"
    """Which weights become the bundle."""
    average: Averaging | None = None
    """A running mean of the weights, which is measured and kept in their place; null is none."""
    patience: Positive | None = None
    """The stage ends after so many epochs in which the metric of `keep: {best: ...}` was not better than before; null
    is after all epochs."""
    rdrop: AtLeast0 = 0.0
    """R-Drop (Liang et al., 2021): the weight of how far two predictions under two dropout masks lie apart (alpha)."""
    checkpoint_minutes: Above0 = 5.0
    """Minutes from one checkpoint to the next, beside those at every epoch's end."""
    checkpoint_steps: Positive | None = None
    """Steps from one checkpoint to the next, beside those at every epoch's end; null is by minutes alone."""
    profile: bool = False
    """Leave a trace of ten steps in the trainer's folder."""
    callbacks: list[str] = []
    """Lightning callbacks of your own, `package.module:Name`, made without arguments; their modules' files are part of
    what a stage is."""


class Log(Strict):
    """What a stage measures of its own training, beside what it always tells; it trains as it would without."""

    worst: Annotated[int, Field(ge=0, le=100, strict=True)] = 8
    """How many of a dev set's rows, the most wrong ones, are kept with their texts for the report; 0 is none."""
    conflict: Positive | None = None
    """Steps from one measurement to the next of the cosine between each two tasks' gradients, by layer; each costs a
    step a task. null is none."""


class Split(Strict):
    """`split: {dev: 0.1}`: dev, and test, are parts of the training file. A row's content alone decides where it goes,
    so that none changes sides when others are added."""

    dev: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = None
    """The share of the rows that are dev, as chance of their content has it."""
    test: Annotated[float, Field(ge=0, lt=1, strict=True)] = 0.0
    """The share of the rows that are test."""
    fold: Annotated[str, Field(pattern=r"^[1-9]\d{0,2}/[1-9]\d{0,2}$")] | None = None
    """Instead of shares: `2/5`, of five parts, equal by chance of rows or groups, the second is dev."""
    by: str | None = None
    """The file's column whose rows of equal value stay together, such as an author; rows of equal texts do anyway,
    where none is said."""

    @model_validator(mode="after")
    def _something_is_left(self) -> Split:
        if (self.dev is None) == (self.fold is None):
            raise ValueError("exactly one of dev and fold says which rows are dev")
        fold, folds = self.folds
        if self.fold and (self.test or folds < 2 or fold > folds):
            raise ValueError(f"fold: {self.fold}: one of 2 folds or more, such as 1/5, and no test beside it")
        if (taken := (self.dev or 0) + self.test) >= 1:
            raise ValueError(f"dev and test take {taken:g} of all rows; less than 1, training wants some")
        return self

    @property
    def folds(self) -> tuple[int, int]:
        """Which fold is dev, from 1, and how many there are; (0, 0) where shares are said."""
        fold, _, folds = (self.fold or "0/0").partition("/")
        return int(fold), int(folds)


class Task(Strict):
    """A task of the recipe, or of a data map (docs/data.md): its head and loss, and its files where they are not the
    data directory's own.
    """

    define: Definition | None = None
    """What the task is, where it is not built in."""
    pair: Pairing | None = None
    """How the encoder reads a pair's two texts: each by itself, `separate`, or as two segments of one sequence,
    `joined`, whose pooled encoding is what the head gets (a cross-encoder); the task's own way unless said."""
    head: str | None = None
    """What answers the task; the bundle's head, or the task's own, unless said."""
    loss: str | None = None
    """What the head learns from; the loss that fits it unless said."""
    measures: list[str] = []
    """What dev is measured by beside the task's own metric: metrics that its kind of label has, or a function of your
    own, `package.module:Name`."""
    label_smoothing: Rate = 0.0
    """The share of a label's target that all classes get evenly, for losses `cross_entropy` and `bce`."""
    class_weights: Literal["balanced"] | dict[Word, Above0] | None = None
    """What examples of a class count for in the loss: class -> factor, 1 where none is given; `balanced` gives all
    classes of the training rows in use an equal share."""
    gamma: AtLeast0 = 2.0
    """How little what is right already counts, for the loss `focal`."""
    scale: Above0 = 20.0
    """The factor on similarities, for losses `cosent` and `angle`."""
    note: str | None = None
    """What whoever reads a score has to know of the labels; it goes into the bundles."""
    train: Files = None
    """The training file: a path or URI, a pattern with `*`, a list of either that is read one after the other, or a
    mapping from each to the share of its rows that is read, decided by their content; the data directory's unless
    said."""
    dev: Files = None
    """The dev file, written like `train`."""
    test: Files = None
    """The test file, written like `train`; it needs no labels."""
    split: Split | None = None
    """What of the training file is dev, and test, where the task names no files of theirs; null is nothing."""
    weight: str | None = None
    """The training file's column that says what a row counts for in the loss, a number from 0 on; null is 1 for all."""
    columns: dict[str, str | Annotated[int, Field(ge=0, strict=True)]] = {}
    """The task's column name -> the file's, or its place from 0 in a CSV or TSV without a header."""

    def part(self, split: str) -> Part | None:
        """The part of the training file that a split is; None where it is a file of its own, whole."""
        if self.split is None or (split != "train" and getattr(self, split)):
            return None
        if split == "test" and not self.split.test:
            return None
        shares = {name: 0.0 if getattr(self, name) else getattr(self.split, name) or 0.0 for name in ("dev", "test")}
        fold, folds = self.split.folds
        return Part(split, **shares, by=self.split.by, fold=fold, folds=folds)

    def files(self, split: str) -> list[tuple[str, float]]:
        """The files of a split, or those of which it is a part, with the share of each that is read; none where the
        task names none."""
        named: Files = self.train if self.part(split) else getattr(self, split)
        if isinstance(named, dict):
            return list(named.items())
        return [(name, 1.0) for name in ([named] if isinstance(named, str) else named or [])]

    @model_validator(mode="after")
    def _dev_is_one_thing(self) -> Task:
        if self.dev and self.split and self.split.fold:
            raise ValueError("split.fold makes dev of the training file, and dev names another; leave one of them out")
        return self

    @property
    def loss_settings(self) -> dict[str, Any]:
        """The settings of its loss that are not their defaults."""
        return {key: value for key in LOSS_SETTINGS if (value := getattr(self, key)) != _default(self, key)}

    def spec(self, name: str, where: str = "") -> TaskSpec:
        """What the task of that name is; KeyError where it is neither defined nor built in. Raises UserError, naming
        the key after `where`, for what makes no task."""
        at = f"{where}tasks.{name}"
        spec = spec_of(name, self.define, f"{at}.define") if self.define else TASKS[name]
        if self.pair is None:
            return spec
        if self.define and self.define.joined and self.pair == "separate":
            raise UserError(f"{at}.pair: separate, and define.joined: true; leave one of them out")
        return paired(spec, self.pair, f"{at}.pair")


LOSS_SETTINGS = ("label_smoothing", "class_weights", "gamma", "scale")  # a task's, which its loss has to have


def _default(of: Strict, key: str) -> Any:
    return type(of).model_fields[key].default


class DataMap(Strict):
    """Where tasks' files lie, in a file of its own."""

    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    """Task -> its files."""


class Overall(Strict):
    """`overall: {tasks: [sst, tone], measure: {tone: f1_macro}}`: what overall/mean and overall/normalised are made of;
    the second maps each Pearson's r to (r + 1) / 2."""

    tasks: Annotated[list[str], Field(min_length=1)]
    """The recipe's tasks that count, all alike."""
    measure: dict[str, str] = {}
    """Task -> the metric that counts, built in or your own, which is then measured too; the task's own unless said."""


class Condition(Strict):
    """A column (or row) of a table."""

    stage: str
    """The stage whose figures it shows, or `encoder`."""
    paper: dict[str, float] = {}
    """Metric -> the paper's figure."""


class PaperTable(Strict):
    """A paper's table, for the report."""

    title: str
    """The table's title."""
    source: str
    """Where the paper has it."""
    layout: Literal["conditions-as-columns", "conditions-as-rows"] = "conditions-as-columns"
    """Whether the paper has its conditions as columns or as rows."""
    metrics: Annotated[dict[str, str], Field(min_length=1)]
    """Metric -> the paper's word for it."""
    conditions: Annotated[dict[str, Condition], Field(min_length=1)]
    """The paper's word -> what it is here."""
    note: str | None = None
    """A line printed below the table."""
