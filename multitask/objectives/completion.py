"""The objective `completion`: "The role in this job description is [MASK] ..." before a description (bertaar.txt, 9).

The answer has room for MOST tokens; the first [SEP] in it ends the title. So one distribution holds the titles of all
lengths, and a title's probability says what its length is worth too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from multitask.data.batches import Batch, padded
from multitask.data.masking import NO_TARGET, hidden_places
from multitask.data.samplers import Rows, derive_seed
from multitask.data.special import SPECIAL
from multitask.data.tokens import TokenTable
from multitask.errors import UserError
from multitask.measure.evaluate import Autocast
from multitask.measure.metrics import COMPLETION, Score
from multitask.objectives.base import Place, Setup, similar_rows
from multitask.objectives.mlm import HiddenTokens
from multitask.tasks.table import TaskSpec

PROMPT = "The role in this job description is"
MOST = 8  # tokens of a title; of the postings' titles nine in ten have no more, others are cut


@dataclass(frozen=True)
class Prompt:
    """How a description asks for its title, in token ids: [CLS] prompt, MOST tokens, [SEP] description [SEP].

    before: what stands before the answer. special: tokens that no text has. longest: tokens of the whole; the
    description's end is cut.
    """

    before: tuple[int, ...]
    mask: int
    end: int
    special: frozenset[int]
    longest: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, longest: int) -> Prompt:
        """The prompt in a tokenizer's ids. Raises UserError where the tokenizer lacks a token that it needs, or
        `longest` leaves no room."""
        found = {token: number for token in SPECIAL if (number := tokenizer.token_to_id(token)) is not None}
        if lacking := [token for token in ("[CLS]", "[SEP]", "[MASK]") if token not in found]:
            raise UserError(f"role completion: the encoder's tokenizer has no {lacking[0]} token; BERT's has one")
        before = (found["[CLS]"], *tokenizer.encode(PROMPT, add_special_tokens=False).ids)
        if longest < (least := len(before) + MOST + 3):
            raise UserError(f"role completion: max_length {longest} has no room for a description; at least {least}")
        return cls(before, found["[MASK]"], found["[SEP]"], frozenset(found.values()), longest)

    def answer(self, title: Sequence[int]) -> list[int]:
        """The token ids that the masks stand for: the title's tokens and the end, at most MOST. Special tokens are
        dropped."""
        return [*self._ordinary(title), self.end][:MOST]

    def ids(self, shown: Sequence[int], description: Sequence[int]) -> list[int]:
        """The token ids of the whole, with the first tokens of the answer `shown` and masks in the place of the
        rest."""
        asked = [*self.before, *shown, *[self.mask] * (MOST - len(shown)), self.end]
        return [*asked, *self._ordinary(description)[: self.longest - len(asked) - 1], self.end]

    def _ordinary(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token not in self.special]

    def hidden(
        self, answers: Sequence[Sequence[int]], descriptions: Sequence[Sequence[int]], shown: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T) ids, mask and targets: each answer's first `shown` tokens stand there, the rest is hidden and asked
        for."""
        asked = zip(answers, descriptions, shown, strict=True)
        input_ids, mask = padded([self.ids(answer[:count], description) for answer, description, count in asked])
        targets = torch.full_like(input_ids, NO_TARGET)
        start = len(self.before)
        for row, (answer, count) in enumerate(zip(answers, shown, strict=True)):
            targets[row, start + count : start + len(answer)] = torch.tensor(answer[count:], dtype=torch.int64)
        return input_ids, mask, targets


class Completion(HiddenTokens):
    """Learns to answer: similar pairs are the examples, the first text is the answer, the second is what it is asked
    of. Training shows some first tokens of the answer, so that it can be found token by token."""

    measured = (COMPLETION,)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.prompt = Prompt.of(Tokenizer.from_str(setup.tokenizer_json), setup.max_length)

    @classmethod
    def token_head(cls, options: Any, brought: str | None) -> str | None:
        return brought or "tied"

    @classmethod
    def wants_similar(cls, options: Any) -> bool:
        return True

    @classmethod
    def examples(cls, options: Any, spec: TaskSpec, table: TokenTable, rows: Rows) -> tuple[TokenTable, Rows]:
        return table, similar_rows(spec, table, rows)

    def batch(self, task: str, rows: Rows, weights: NDArray[np.float32], when: str) -> Batch:
        """A rank's slice of a global batch. How much of an answer is shown is drawn for the example, never for the rank
        that computes it."""
        draws = [derive_seed(self.setup.seed, self.setup.stage, when, task, row) for row in rows.tolist()]
        return self._asked(task, self.setup.tables[task], torch.from_numpy(rows), torch.from_numpy(weights), draws)

    def dev_batch(self, table: TokenTable, batch: Batch) -> Batch:
        """A batch of dev examples; nothing of the answers is shown."""
        return self._asked(batch.task, table, batch.rows, batch.weights, [0] * len(batch))

    def measure(self, data: Mapping[str, TokenTable], place: Place, autocast: Autocast) -> dict[str, Score]:
        """The perplexity of dev's answers, ends included, of all tasks together: a task's own name stands for mlm's
        perplexity."""
        return {COMPLETION: super().measure(data, place, autocast)[COMPLETION]}

    def _asked(self, task: str, table: TokenTable, rows: Tensor, weights: Tensor, draws: Sequence[int]) -> Batch:
        first, second = ([table.sentence(2 * row + side).tolist() for row in rows.tolist()] for side in (0, 1))
        answers = [self.prompt.answer(ids) for ids in first]
        # Nothing is asked of an example of weight 0: all of its answer is shown.
        shown = [
            draw % len(answer) if weight else len(answer)
            for draw, answer, weight in zip(draws, answers, weights.tolist(), strict=True)
        ]
        input_ids, mask, targets = self.prompt.hidden(answers, second, shown)
        hidden = hidden_places(targets)
        return Batch(
            task, input_ids, mask, table.labels[rows], weights, rows, targets=targets, hidden=hidden, numbers=rows
        )
