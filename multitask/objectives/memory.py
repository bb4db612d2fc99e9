"""`micro_batch: auto`: of how many tokens the device can hold the activations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multitask.data.batches import Batch
from multitask.objectives.base import Objective, Place
from multitask.objectives.ranks import least_over_ranks

ALL = 2**62  # tokens that stand for no limit where ranks compare theirs
Draw = Callable[[], None]  # puts dropout to where a step begins

log = logging.getLogger(__name__)


class Memory:
    """Sets the model's `part_tokens`, the tokens whose activations are held at a time, to what the device can hold.

    batch: the newest one, whose gradient is being computed.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective, self.model = objective, objective.model
        self.batch: Batch | None = None

    def look(self, tasks: Sequence[str], size: int, draw: Draw) -> None:
        """Computes the gradients of each task's batch of the longest examples, `size` of them, beside stand-ins for the
        optimizer's moments, until they fit. All ranks take the least that one of them has found. Raises the error where
        not even one sentence's fit."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        moments = [torch.empty_like(weight) for weight in trained for _ in range(2)]
        for task in tasks:
            self.batch = longest_batch(self.objective, task, size)
            self.again(lambda: self._gradients(trained, draw), draw)
        del moments
        least = least_over_ranks(self.model.part_tokens or ALL, self.objective.device)
        self.model.part_tokens = None if least == ALL else least

    def _gradients(self, trained: Sequence[Tensor], draw: Draw) -> None:
        """A forward and a backward pass of which other ranks and DDP see nothing."""
        assert self.batch
        draw()
        total, _ = self.objective.loss(self.batch, Place(reseed=draw))
        torch.autograd.grad(total, trained, allow_unused=True)

    def again(self, closure: Callable[[], Any], draw: Draw) -> Any:
        """What the closure, a forward and a backward pass of the batch, gives; where memory runs out, with half of the
        tokens at a time. Raises the error where they are one sentence's already."""
        while True:
            try:
                return closure()
            except RuntimeError as error:
                assert self.batch
                tokens = halved(self.model.part_tokens, self.batch) if out_of_memory(error) else None
                if tokens is None:
                    raise
            log.warning("memory ran out: the activations of %d tokens are held at a time from now on", tokens)
            self.model.part_tokens = tokens
            draw()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's memory, or what the process may take of the machine's, is used up."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def halved(part_tokens: int | None, batch: Batch) -> int | None:
    """Half of the tokens that were held at a time, padding included, when the batch did not fit; None where they were
    a single sentence's, or encodings stand in for them.

    part_tokens: how many were; None is the whole batch's.
    """
    if batch.features is not None:
        return None
    sentences, width = batch.input_ids.shape
    held = min(sentences, max(1, (part_tokens or batch.input_ids.numel()) // width))
    return held // 2 * width or None


def longest_batch(objective: Objective, task: str, size: int) -> Batch:
    """The batch of a task's training examples that have the longest sentences, so many."""
    rows = objective.setup.rows[task]
    rows = np.sort(rows[np.argsort(-objective.setup.tables[task].lengths[rows], kind="stable")[:size]])
    return objective.batch(task, rows, np.ones(len(rows), np.float32), "memory").to(objective.device)
