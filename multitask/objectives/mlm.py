"""The objective `mlm`: hidden tokens from their surroundings (mlm-mnrl.txt, 4.2)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor

from multitask.data.batches import Batch, collate
from multitask.data.masking import Masking
from multitask.data.samplers import Rows, derive_seed, stacked, subset
from multitask.data.tokens import TokenTable
from multitask.measure.evaluate import Autocast, EvalSet
from multitask.measure.metrics import PERPLEXITY, Score
from multitask.model.multitask import MultitaskModel
from multitask.objectives.base import Objective, Place, Setup
from multitask.tasks.schema import Strict
from multitask.tasks.table import TaskSpec

# Perplexity is measured on at most this many sentences of each dev file, always the same ones with the same tokens
# hidden, whatever the stage and the seed: some 5,000 hidden tokens give it to 3 %, and all of Quora's 40,000
# sentences would take minutes an epoch.
DEV_SENTENCES = 1000
MOST_NATS = math.log(sys.float_info.max)  # 709.78


def perplexity(total: float, count: float) -> Score:
    """exp(total / count), from a summed cross-entropy in nats; no value where that is no number a float can hold."""
    if not count:
        return Score(None, "no token was hidden")
    loss = total / count
    if loss <= MOST_NATS:
        return Score(math.exp(loss))
    return Score(None, f"the loss is {loss:.6g} nats a hidden token: a number holds exp of at most {MOST_NATS:.6g}")


class Mlm(Strict):
    """The objective `mlm` (mlm-mnrl.txt, 4.2)."""

    rate: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.15
    """Each token's own chance of being masked."""
    replace: Literal["mask", "bert"] = "mask"
    """What stands in a masked token's place: `mask` is [MASK] always, as in the paper; `bert` is [MASK] in 80 %, a
    random token in 10 %, the token itself in 10 %."""
    head: Literal["tied", "untied"] = "tied"
    """Whether the vocabulary's weights are the embeddings'."""


class HiddenTokens(Objective):
    """The base of objectives whose loss is the hidden tokens' cross-entropy, normalised by the hidden tokens of the
    whole global batch. `measured` names one metric: the perplexity of all the stage's tasks together."""

    reads_sentences = False

    @classmethod
    def reached(cls, model: MultitaskModel, task: str) -> set[str]:
        return model.token_modules()

    def loss(self, batch: Batch, place: Place) -> tuple[Tensor, Tensor]:
        logits, tokens = self.model.hidden_tokens(batch)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, tokens, reduction="sum"), wide.new_full((), len(tokens))

    def measure(self, data: Mapping[str, TokenTable], place: Place, autocast: Autocast) -> dict[str, Score]:
        """exp(mean cross-entropy) over hidden tokens of the dev text: of each task of the stage, and of all."""
        tasks = self.setup.tasks
        sums = {f"{task}/perplexity": self._dev_loss(task, data[task], place, autocast) for task in tasks}
        sums[self.measured[0]] = torch.stack(list(sums.values())).sum(dim=0)
        return {name: perplexity(*pair.tolist()) for name, pair in sums.items()}

    def dev_batch(self, table: TokenTable, batch: Batch) -> Batch:
        """The examples of a dev table with tokens hidden, which ones depending on neither the stage nor the seed."""
        raise NotImplementedError(f"{type(self).__name__}.dev_batch")

    def _dev_loss(self, task: str, table: TokenTable, place: Place, autocast: Autocast) -> Tensor:
        """(2,) float64: the summed loss and the number of hidden tokens, over all ranks."""
        table, rows = self.examples(self.options, self.model.specs[task], table, np.arange(len(table)))
        rows = rows[subset(len(rows), DEV_SENTENCES, derive_seed("perplexity", task))]
        found = torch.zeros(2, dtype=torch.float64)
        for batch in EvalSet.of(task, table, self.device.type, place.rank, place.world, rows).batches:
            with self.model.evaluating(), autocast():
                pair = self.loss(self.dev_batch(table, batch).to(self.device), place)
            found += torch.stack(pair).cpu().double()
        return place.reduce(found)


class MaskedLanguage(HiddenTokens):
    """Learns to restore hidden tokens: every sentence is an example; each of its tokens is hidden by its own chance."""

    Options = Mlm
    measured = (PERPLEXITY,)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        settings: Mlm = setup.options
        self.masking = Masking.of(Tokenizer.from_str(setup.tokenizer_json), settings.rate, settings.replace)

    @classmethod
    def token_head(cls, options: Any, brought: str | None) -> str | None:
        head: str = options.head
        return head

    @classmethod
    def examples(cls, options: Any, spec: TaskSpec, table: TokenTable, rows: Rows) -> tuple[TokenTable, Rows]:
        """The sentences of the rows, each an example of its own."""
        return table.singles(), np.sort(stacked(rows, table.sentences))

    def batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        batch = collate(task, self.setup.tables[task], rows, weights)
        return self._masked(batch, self.setup.seed, self.setup.stage, when)

    def dev_batch(self, table: TokenTable, batch: Batch) -> Batch:
        return self._masked(batch, "perplexity")

    def _masked(self, batch: Batch, *when: object) -> Batch:
        """A batch with tokens hidden, drawn for each example, never for the rank that computes it."""
        return self.masking.apply(batch, [derive_seed(*when, batch.task, row) for row in batch.rows.tolist()])
