"""Exact dev metrics: every example once, over however many ranks, no duplicates, in float64 (DESIGN rule 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from multitask.data.batches import Batch, collate, stacked
from multitask.data.samplers import Rows, eval_batches
from multitask.data.tokens import TokenTable
from multitask.metrics import OVERALL_OF, overall, score
from multitask.model.heads import predict
from multitask.model.multitask import MultitaskModel
from multitask.tasks import TASKS

# Padded tokens a forward. A CPU is fastest while a batch's activations stay in its cache.
EVAL_TOKENS = {"cpu": 2048, "cuda": 131072}
OTHER_EVAL_TOKENS = 16384

Reduce = Callable[[Tensor], Tensor]
Autocast = Callable[[], AbstractContextManager[object]]


Done = Callable[[int], None]  # how many of this rank's examples are done


def silent(done: int) -> None:
    """Progress that nobody wants to see."""


def alone(tensor: Tensor) -> Tensor:
    """The reduction over one rank."""
    return tensor


@dataclass
class EvalSet:
    """One task's examples as this rank's batches; the ranks' batches together hold every example once."""

    task: str
    table: TokenTable
    batches: list[Batch]

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
        plan = eval_batches(table.lengths[rows], EVAL_TOKENS.get(device, OTHER_EVAL_TOKENS) // table.sentences)
        mine = [rows[batch] for batch in plan[rank::world]]
        return cls(task, table, [collate(task, table, some, np.ones(len(some), np.float32)) for some in mine])

    def encoded(
        self, model: MultitaskModel, device: torch.device, autocast: Autocast = nullcontext, progress: Done = silent
    ) -> EvalSet:
        """The same with the sentences encoded once and for all: for a frozen encoder."""
        if model.uses_tokens(self.task):
            return self
        batches, done = [], 0
        for batch in self.batches:
            batches.append(_encoded(model, batch, device, autocast))
            done += len(batch)
            progress(done)
        return EvalSet(self.task, self.table, batches)


def _encoded(model: MultitaskModel, batch: Batch, device: torch.device, autocast: Autocast) -> Batch:
    with model.evaluating(), autocast():
        features = model.encode(batch.to(device)).sentence.cpu()
    features = features.to(torch.promote_types(features.dtype, torch.float32))  # autocast may have made halves
    nothing = batch.input_ids.new_empty(0, 0)
    return replace(batch, features=features, input_ids=nothing, mask=nothing.bool())


def predictions(
    model: MultitaskModel,
    data: EvalSet,
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    reduce: Reduce = alone,
    progress: Done = silent,
) -> Tensor:
    """(N,) float64 predictions of all examples, in the table's order, the same on every rank.

    A rank leaves zeros where others predict, so that the reduction, a sum, is exact.
    """
    result = torch.zeros(len(data.table), dtype=torch.float64)
    done = 0
    with model.evaluating():
        for batch in data.batches:
            with autocast():
                outputs = model(batch.to(device))
            result[batch.rows] = predict(outputs, TASKS[data.task].label).cpu().double()
            done += len(batch)
            progress(done)
    return reduce(result)


@dataclass(frozen=True)
class Measured:
    """metrics: `sst/accuracy` and the like, null where undefined; why: the reason for each null."""

    metrics: dict[str, float | None]
    why: dict[str, str]


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
    for task, data in sets.items():
        predicted = predictions(
            model,
            data,
            device=device,
            autocast=autocast,
            reduce=reduce,
            progress=(progress or {}).get(task, silent),
        )
        spec = TASKS[task]
        result = score(spec.metric, predicted, data.table.labels.double())
        metrics[spec.metric_key] = result.value
        if result.why:
            why[spec.metric_key] = result.why
    if all(key in metrics for key in OVERALL_OF):
        scores = overall(metrics)
        undefined = [key for key in OVERALL_OF if metrics[key] is None]
        metrics |= scores
        why |= {name: f"{', '.join(undefined)} undefined" for name, value in scores.items() if value is None}
    return Measured(metrics, why)


def encode_sentences(
    model: MultitaskModel,
    data: EvalSet,
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    reduce: Reduce = alone,
    progress: Done = silent,
) -> Tensor:
    """(N * sentences, H) encodings of a table's sentences, those of rows outside `data` zero; on every rank."""
    weight = next(model.parameters())
    features = weight.new_zeros(len(data.table) * data.table.sentences, model.config.hidden_size, device="cpu")
    for batch in data.encoded(model, device, autocast, progress).batches:
        assert batch.features is not None
        features[stacked(batch.rows.numpy(), data.table.sentences)] = batch.features.to(features.dtype)
    return reduce(features)
