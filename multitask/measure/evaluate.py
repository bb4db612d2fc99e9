"""Exact dev metrics: every example once, over however many ranks, no duplicates, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from multitask.data.batches import Batch, Features, collate
from multitask.data.samplers import Rows, eval_batches, stacked
from multitask.data.tokens import TokenTable
from multitask.measure.bootstrap import INTERVAL_SEED
from multitask.measure.metrics import OVERALL_OF, bootstrap_interval, overall, score
from multitask.model.heads import predict
from multitask.model.multitask import MultitaskModel

# Padded tokens a forward. A CPU is fastest while a batch's activations stay in its cache.
EVAL_TOKENS = {"cpu": 2048, "cuda": 131072}
OTHER_EVAL_TOKENS = 16384

Some = TypeVar("Some", bound=Sized)  # a batch, as long as it has examples
Reduce = Callable[[Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[object]]
Done = Callable[[int], None]  # how many of this rank's examples are done


def eval_tokens(device: str) -> int:
    """Padded tokens a forward on a device of that type."""
    return EVAL_TOKENS.get(device, OTHER_EVAL_TOKENS)


def silent(done: int) -> None:
    """Progress that nobody wants to see."""


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
    """The reduction over one rank."""
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
        """The table's examples, or only those `rows` of it."""
        rows = np.arange(len(table)) if rows is None else rows
        plan = eval_batches(table.lengths[rows], eval_tokens(device) // table.sentences)
        mine = [rows[batch] for batch in plan[rank::world]]
        batches = [collate(task, table, some, np.ones(len(some), np.float32)) for some in mine]
        return cls(task, table, batches, len(plan) // world)

    def with_features(self, features: Features) -> EvalSet:
        """The same batches of sentences encoded before."""
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
) -> Tensor:
    """(N,) float64 predictions of all examples, in the table's order, the same on every rank."""
    label = model.specs[data.task].label
    return _collected(
        model, data, partial(predict, label=label), device=device, autocast=autocast, reduce=reduce, progress=progress
    )


def _collected(
    model: MultitaskModel,
    data: EvalSet,
    value: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
    autocast: Autocast,
    reduce: Reduce,
    progress: Done,
) -> Tensor:
    """(N,) float64, a value of each example's outputs.

    A rank leaves zeros where others predict, so that the reduction, a sum, is exact.
    """
    result = torch.zeros(len(data.table), dtype=torch.float64)

    def values(batch: Batch) -> Tensor:
        with autocast():
            outputs = model(batch.to(device))
        return value(outputs)

    with model.evaluating():
        return reduce(scattered(result, data.batches, lambda batch: batch.rows, values, progress))


@dataclass(frozen=True)
class Measured:
    """metrics: `sst/accuracy` and the like, null where undefined; why: the reason for each null.

    intervals: metric -> 95 % bootstrap interval. predictions: task -> (N,), what the metrics rest on. logits: the same
    of binary labels, before they became yes or no.
    """

    metrics: dict[str, float | None]
    why: dict[str, str]
    intervals: dict[str, tuple[float, float]]
    predictions: dict[str, Tensor]
    logits: dict[str, Tensor]


def measure(
    model: MultitaskModel,
    sets: Mapping[str, EvalSet],
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    reduce: Reduce = alone,
    progress: Mapping[str, Done] | None = None,
) -> Measured:
    """Every task's metric and, where all three tasks are there, both papers' overall scores."""
    metrics: dict[str, float | None] = {}
    why: dict[str, str] = {}
    intervals: dict[str, tuple[float, float]] = {}
    found: dict[str, Tensor] = {}
    logits: dict[str, Tensor] = {}
    for task, data in sets.items():
        spec = model.specs[task]
        binary = spec.label.kind == "binary"
        found[task] = _collected(
            model,
            data,
            Tensor.float if binary else partial(predict, label=spec.label),
            device=device,
            autocast=autocast,
            reduce=reduce,
            progress=(progress or {}).get(task, silent),
        )
        if binary:
            logits[task], found[task] = found[task], predict(found[task], spec.label).double()
        labels = data.table.labels.double()
        result = score(spec.metric, found[task], labels)
        metrics[spec.metric_key] = result.value
        if interval := bootstrap_interval(spec.metric, found[task], labels, INTERVAL_SEED):
            intervals[spec.metric_key] = interval
        if result.why:
            why[spec.metric_key] = result.why
    if all(key in metrics for key in OVERALL_OF):
        scores = overall(metrics)
        undefined = [key for key in OVERALL_OF if metrics[key] is None]
        metrics |= scores
        why |= {name: f"{', '.join(undefined)} undefined" for name, value in scores.items() if value is None}
    return Measured(metrics, why, intervals, found, logits)


def feature_places(rows: Rows, table: TokenTable) -> Tensor:
    """(N * sentences,) where the encodings of those rows' sentences stand in `encode_sentences`, -1 for others."""
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
    width = model.config.hidden_size * (2 if model.specs[data.task].joined else 1)
    found = weight.new_zeros(len(rows) * sentences, width, device="cpu")

    def encoded(batch: Batch) -> Tensor:  # halves, where autocast makes them
        with model.evaluating(), autocast():
            return model.features(batch.to(device))

    return reduce(
        scattered(found, data.batches, lambda batch: places[stacked(batch.rows.numpy(), sentences)], encoded, progress)
    )
