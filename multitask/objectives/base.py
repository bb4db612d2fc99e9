"""What an objective is: what a stage learns by, in plain PyTorch. Whoever runs the loop tells it its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multitask.data.batches import Batch, Features, collate
from multitask.data.samplers import Rows
from multitask.data.tokens import TokenTable
from multitask.measure.evaluate import Autocast
from multitask.measure.metrics import Score
from multitask.model.multitask import MultitaskModel
from multitask.tasks.schema import Strict
from multitask.tasks.table import TaskSpec


@dataclass(frozen=True)
class Place:
    """Where a rank computes its slice of a global batch."""

    rank: int = 0
    """This process's number among `world` that train together."""
    world: int = 1
    """The number of ranks."""
    steps: int = 0
    """The optimizer steps that the stage has done so far."""
    reseed: Callable[[], None] = lambda: None
    """Puts dropout back to where this step began, so that a second forward drops the same units."""
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor
    """Sums a tensor over all ranks in place, and returns it."""


@dataclass(frozen=True)
class Setup:
    """What a stage gives its objective."""

    model: MultitaskModel
    """The model that is trained, with the heads of its tasks."""
    stage: str
    """The stage's name, which keys whatever is drawn."""
    seed: int
    """The experiment's seed, which keys it too."""
    tasks: list[str]
    """The tasks that are trained."""
    options: Any
    """The objective's own options, of the type `Objective.Options`."""
    batch_size: int
    """Examples a step, over all ranks together."""
    tables: Mapping[str, TokenTable]
    """Task -> its training examples, as `Objective.examples` gave them."""
    rows: Mapping[str, Rows]
    """Task -> the rows of its table that are used."""
    losses: Mapping[str, str] = field(default_factory=dict)
    """Task -> the name of its head's loss."""
    loss_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Task -> the settings of its loss that are not its defaults."""
    teachers: Mapping[str, Any] = field(default_factory=dict)
    """Task -> how it learns from its teacher, a Teacher (objectives/distillation.py), where it has one."""
    smart: Any = None
    """The settings of SMART's regularisation, or None."""
    rdrop: float = 0.0
    """The weight of R-Drop's term."""
    tokenizer_json: str = ""
    """The tokenizer, as its library writes it."""
    max_length: int = 512
    """Tokens of a sequence, beyond which texts are cut."""


class Objective:
    """What a stage learns by. A subclass says what it is in its class's facts, and does its work in `loss`."""

    Options: ClassVar[type[Strict] | None] = None
    """The schema of the options that a stage may give under the objective's name; None where it has none."""
    measured: ClassVar[tuple[str, ...]] = ()
    """The dev metrics of the objective's own, all tasks together; which are better low, measure/metrics.py says."""
    uses_head: ClassVar[bool] = False
    """Whether a batch goes through its task's head, so that the head is trained."""
    reads_sentences: ClassVar[bool] = True
    """Whether it learns from sentence encodings, to which the stage's dropout applies."""
    has_head: ClassVar[bool] = True
    """Whether something is left to train over a frozen encoder."""
    smooth: ClassVar[bool] = False
    """Whether SMART can regularise it."""
    teachable: ClassVar[bool] = False
    """Whether its tasks can learn from teachers too."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.model = setup, setup.model
        self.options: Any = setup.options
        self.features: dict[str, Features] = {}  # task -> its training sentences, where the encoder is frozen

    @classmethod
    def token_head(cls, options: Any, brought: str | None) -> str | None:
        """The masked-language head that it trains: tied, untied, or None. brought: the one that the bundle has."""
        return None

    @classmethod
    def compares(cls, options: Any) -> bool:
        """Whether it learns from nothing but the other examples of a batch."""
        return False

    @classmethod
    def wants_similar(cls, options: Any) -> bool:
        """Whether each of its tasks needs labels that say which pairs are similar."""
        return False

    @classmethod
    def examples(cls, options: Any, spec: TaskSpec, table: TokenTable, rows: Rows) -> tuple[TokenTable, Rows]:
        """The table and the rows of it that are a task's examples; unless overridden, the `rows` of the table as they
        are. spec: what the task is."""
        return table, rows

    @classmethod
    def reached(cls, model: MultitaskModel, task: str) -> set[str]:
        """The modules of the model that a batch of the task goes through, by the prefixes of their names."""
        return model.sentence_modules(task, through_head=cls.uses_head)

    def batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        """A rank's slice of a global batch.

        rows, weights: (B,) of the task's table; weight 0 fills a slice up. when: the batch's epoch and step, which key
        what is drawn anew each time.
        """
        return collate(task, self.setup.tables[task], rows, weights, self.features.get(task))

    def loss(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        """The rank's (sum of losses, count), to be divided over all ranks together.

        Examples of weight 0 fill a slice up and do not count; a slice may have no other ones: the sum, 0, still has its
        graph. What reads sentence encodings puts them through `self.model.dropped`.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def is_squared(self, task: str) -> bool:
        """Whether the task's loss is of squared differences; one of log-probabilities unless overridden."""
        return False

    def stepped(self) -> None:
        """Called after each step of the optimizer."""

    def measure(self, data: Mapping[str, TokenTable], place: Place, autocast: Autocast) -> dict[str, Score]:
        """Dev metrics of the objective itself, beside the tasks', after training. data: task -> its dev examples."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed stage needs beside weights and optimizer, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def similar_rows(spec: TaskSpec, table: TokenTable, rows: Rows) -> Rows:
    """The rows whose pairs are similar. The task's labels must say which are."""
    least = spec.label.similar
    assert least is not None, f"recipe/checks.py lets no task without similar pairs, such as {spec.name}, in here"
    found: Rows = rows[(table.labels[rows] >= least).numpy()]
    return found
