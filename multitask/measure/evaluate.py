"""Exact dev metrics: every example once, over however many ranks, no duplicates, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multitask.data.batches import Batch, Features, collate
from multitask.data.progress import Done, silent
from multitask.data.samplers import Rows, eval_batches, stacked
from multitask.data.tokens import TokenTable
from multitask.errors import warn_once
from multitask.measure.metrics import METRICS, OVERALL_OF, Predicted, Score, overall, score
from multitask.measure.rankings import questions_of
from multitask.model.multitask import MultitaskModel
from multitask.tasks.imported import TRUSTED, is_path, may_be_imported
from multitask.tasks.labels import KINDS, LabelSpec
from multitask.tasks.table import TaskSpec

# Padded tokens a forward. A CPU is fastest while a batch's activations stay in its cache.
EVAL_TOKENS = {"cpu": 2048, "cuda": 131072}
OTHER_EVAL_TOKENS = 16384

Some = TypeVar("Some", bound=Sized)  # a batch, as long as it has examples
Reduce = Callable[[Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[object]]


def eval_tokens(device: str) -> int:
    """Padded tokens a forward on a device of that type."""
    return EVAL_TOKENS.get(device, OTHER_EVAL_TOKENS)


def scattered(
    into: Tensor,
    batches: Iterable[Some],
    places: Callable[[Some], Rows | Tensor],
    values: Callable[[Some], Tensor],
    progress: Done = silent,
) -> Tensor:
    """Puts what is computed batch by batch at its places in `into`, a tensor on the CPU, and returns that.

    places: batch -> where its values go, along the first dimension. values: batch -> those values, on any device; they
    are cast to the type of `into`.
    """
    done = 0
    for batch in batches:
        into[places(batch)] = values(batch).cpu().to(into.dtype)
        done += len(batch)
        progress(done)
    return into


def alone(tensor: Tensor) -> Tensor:
    """The reduction over one rank: the tensor itself."""
    return tensor


@dataclass
class EvalSet:
    """One task's examples as this rank's batches; the ranks' batches together hold every example once.

    common: how many batches every rank has at least.
    """

    task: str
    table: TokenTable
    batches: list[Batch]
    common: int

    @classmethod
    def of(
        cls,
        task: str,
        table: TokenTable,
        device: str,
        rank: int = 0,
        world: int = 1,
        rows: Rows | None = None,
    ) -> EvalSet:
        """This rank's share of a table's examples, or of `rows` of it."""
        rows = np.arange(len(table)) if rows is None else rows
        plan = eval_batches(table.lengths[rows], eval_tokens(device) // table.sentences)
        mine = [rows[batch] for batch in plan[rank::world]]
        batches = [collate(task, table, some, np.ones(len(some), np.float32)) for some in mine]
        return cls(task, table, batches, len(plan) // world)

    def with_features(self, features: Features) -> EvalSet:
        """A set of the same batches whose sentences are read from encodings computed before."""
        batches = [
            collate(self.task, self.table, batch.rows.numpy(), batch.weights.numpy(), features)
            for batch in self.batches
        ]
        return EvalSet(self.task, self.table, batches, self.common)


def predictions(
    model: MultitaskModel,
    data: EvalSet,
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    reduce: Reduce = alone,
    progress: Done = silent,
) -> Predicted:
    """What the model says of all examples, in the table's order, the same on every rank.

    A rank leaves zeros where others predict, so that the reduction, a sum, is exact.
    """
    label = model.specs[data.task].label
    kind = KINDS[label.kind]

    def values(batch: Batch) -> Tensor:
        with autocast():
            outputs = model(batch.to(device))
        return outputs.float() if kind.by_logits else kind.prediction(outputs, label)

    outputs = torch.zeros(1, *label.shape)
    shape = (outputs if kind.by_logits else kind.prediction(outputs, label)).shape[1:]
    found = torch.zeros(len(data.table), *shape, dtype=torch.float64)
    with model.evaluating():
        found = reduce(scattered(found, data.batches, lambda batch: batch.rows, values, progress))
    return _decided(found, label) if kind.by_logits else Predicted(found)


def head_outputs(model: MultitaskModel, data: EvalSet, *, device: torch.device, progress: Done = silent) -> Tensor:
    """(N, *shape) float32 on the CPU: what the task's head puts out for all examples, in the table's order."""
    found = torch.zeros(len(data.table), *model.specs[data.task].label.shape)
    with model.evaluating():
        return scattered(found, data.batches, lambda batch: batch.rows, lambda batch: model(batch.to(device)), progress)


def predicted_of(outputs: Tensor, label: LabelSpec) -> Predicted:
    """What a head's outputs (N, *shape) say; to the bit what `predictions` says of those that it computes."""
    kind = KINDS[label.kind]
    return _decided(outputs.double(), label) if kind.by_logits else Predicted(kind.prediction(outputs, label).double())


def _decided(logits: Tensor, label: LabelSpec) -> Predicted:
    """What logits (N, *shape), float64, decide."""
    return Predicted(KINDS[label.kind].prediction(logits, label).double(), logits)


@dataclass(frozen=True)
class Measured:
    """What measuring the dev sets gave.

    scores: `sst/accuracy` and the like. predicted: task -> what its score rests on.
    """

    scores: dict[str, Score]
    predicted: dict[str, Predicted]


def metrics_of(spec: TaskSpec, keys: Sequence[str]) -> list[str]:
    """What a task is measured by: its own metric, and those of the keys, TASK/METRIC, that are asked of it and that its
    labels have. A user's own is left out, with a warning, where only a bundle names it."""
    asked = [metric for task, _, metric in (key.partition("/") for key in keys) if task == spec.name]
    valid: Sequence[str] = spec.metrics
    found = [metric for metric in asked if metric in valid or (is_path(metric) and _may_be_asked(metric))]
    return list(dict.fromkeys([spec.metric, *found]))


def table_score(
    spec: TaskSpec,
    metric: str,
    table: TokenTable,
    predicted: Predicted,
    rows: NDArray[np.bool_] | None = None,
) -> Score:
    """A metric of what is said of a table's examples. rows: (N,) whether each is measured; all of them where it is
    None."""
    labels = table.labels.double().numpy()
    questions = questions_of(table, spec.label) if METRICS[metric].ranking else None
    if rows is None:
        return score(metric, predicted, labels, questions)
    return score(metric, predicted.of(rows), labels[rows], questions and questions.of(rows))


def _may_be_asked(metric: str) -> bool:
    if may_be_imported(metric):
        return True
    module = metric.partition(":")[0]
    warn_once(f"'{metric}' is not measured: a bundle alone has no code imported; to have it: {TRUSTED}={module}")
    return False


def measure(
    model: MultitaskModel,
    sets: Mapping[str, EvalSet],
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    reduce: Reduce = alone,
    progress: Mapping[str, Done] | None = None,
    overall_of: Sequence[str] = OVERALL_OF,
    measures: Sequence[str] = (),
) -> Measured:
    """Measures every task's dev set: its metric and, where all metrics are there that they are made of, both overall
    scores. overall_of: those metrics, TASK/METRIC; one that is not its task's own is measured too. measures: others
    that are."""
    scores: dict[str, Score] = {}
    found: dict[str, Predicted] = {}
    for task, data in sets.items():
        told = (progress or {}).get(task, silent)
        found[task] = predictions(model, data, device=device, autocast=autocast, reduce=reduce, progress=told)
        for metric in metrics_of(model.specs[task], [*overall_of, *measures]):
            scores[f"{task}/{metric}"] = table_score(model.specs[task], metric, data.table, found[task])
    if all(key in scores for key in overall_of):
        undefined = ", ".join(key for key in overall_of if scores[key].value is None)
        total = overall({key: scores[key].value for key in overall_of}, overall_of)
        scores |= {name: Score(value, f"{undefined} undefined" if undefined else None) for name, value in total.items()}
    return Measured(scores, found)


def feature_places(rows: Rows, table: TokenTable) -> Tensor:
    """(N * sentences,) where each sentence of a table stands among what `encode_sentences` gives for those rows; -1
    where it does not."""
    places = torch.full((len(table) * table.sentences,), -1)
    places[np.sort(stacked(rows, table.sentences))] = torch.arange(len(rows) * table.sentences)
    return places


def encode_sentences(
    model: MultitaskModel,
    data: EvalSet,
    rows: Rows,
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    reduce: Reduce = alone,
    progress: Done = silent,
) -> Tensor:
    """(rows * sentences, F) `MultitaskModel.features` of the sentences of those rows, in the table's order; on every
    rank."""
    weight, sentences = next(model.parameters()), data.table.sentences
    places = feature_places(rows, data.table)
    width = model.config.hidden_size * (2 if model.specs[data.task].by_text else 1)
    found = weight.new_zeros(len(rows) * sentences, width, device="cpu")

    def encoded(batch: Batch) -> Tensor:  # halves, where autocast makes them
        with model.evaluating(), autocast():
            return model.features(batch.to(device))

    return reduce(
        scattered(found, data.batches, lambda batch: places[stacked(batch.rows.numpy(), sentences)], encoded, progress)
    )
