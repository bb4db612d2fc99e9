"""The objective `completion`: a posting's title behind "The role in this job description is" (bertaar.txt, 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from lightning_modules.mlm import HiddenTokens
from multitask.bundle.bundle import longest
from multitask.data.batches import Batch
from multitask.data.samplers import Rows, derive_seed
from multitask.data.tokens import TokenTable
from multitask.measure.evaluate import Autocast
from multitask.measure.metrics import COMPLETION, Score
from multitask.recruit.completion import Prompt
from multitask.tasks.table import TASKS, TaskSpec


class CompletionModule(HiddenTokens):
    """Similar pairs are the examples: the first text is the answer, the second is what it is asked of. Training shows
    some first tokens of the answer, so that it can be found token by token."""

    perplexity = COMPLETION

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        self.prompt = Prompt.of(tokenizer, longest(self.job.about, self.model.config))

    @classmethod
    def examples(
        cls, task: str, table: TokenTable, rows: Rows, specs: Mapping[str, TaskSpec] = TASKS
    ) -> tuple[TokenTable, Rows]:
        """Those of the rows that are similar."""
        least = specs[task].label.similar
        assert least is not None, "recipe_checks.py lets no such task into a completion stage"
        return table, rows[(table.labels[rows] >= least).numpy()]

    def make_batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        """How much is shown is drawn for the example, never for the rank that computes it."""
        draws = [derive_seed(self.seed, self.stage.name, when, task, row) for row in rows.tolist()]
        return self._asked(task, self.tables[task], torch.from_numpy(rows), torch.from_numpy(weights), draws)

    def dev_batch(self, table: TokenTable, batch: Batch) -> Batch:
        """Nothing of the answers is shown."""
        return self._asked(batch.task, table, batch.rows, batch.weights, [0] * len(batch))

    def own_metrics(self, data: Mapping[str, TokenTable], autocast: Autocast) -> dict[str, Score]:
        """The perplexity of dev's answers, ends included, of all tasks together: a task's own name is mlm's."""
        return {COMPLETION: super().own_metrics(data, autocast)[COMPLETION]}

    def _asked(self, task: str, table: TokenTable, rows: Tensor, weights: Tensor, draws: Sequence[int]) -> Batch:
        first, second = ([table.sentence(2 * row + side).tolist() for row in rows.tolist()] for side in (0, 1))
        answers = [self.prompt.answer(ids) for ids in first]
        # Nothing is asked of an example of weight 0: all of its answer is shown.
        shown = [
            draw % len(answer) if weight else len(answer)
            for draw, answer, weight in zip(draws, answers, weights.tolist(), strict=True)
        ]
        input_ids, mask, targets = self.prompt.hidden(answers, second, shown)
        return Batch(task, input_ids, mask, table.labels[rows], weights, rows, targets=targets)
