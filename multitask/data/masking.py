"""Masked-language modelling's input: which tokens are hidden, and behind what (mlm-mnrl.txt, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from multitask.data.batches import Batch
from multitask.data.special import special_ids, special_tokens
from multitask.errors import UserError

NO_TARGET = -100  # a position whose token is not asked for
# Of the tokens chosen, what share is hidden by [MASK], what share by a random token; the rest stays itself.
REPLACE: dict[str, tuple[float, float]] = {"mask": (1.0, 0.0), "bert": (0.8, 0.1)}


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden: each by itself with probability `rate`, special ones never.

    special: (vocabulary,) bool, false at what may be hidden and drawn. replace: a key of REPLACE.
    """

    mask_id: int
    special: Tensor
    rate: float
    replace: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, rate: float, replace: str) -> Masking:
        """The masking that a tokenizer allows. Raises UserError where it has no [MASK]."""
        mask_id = tokenizer.token_to_id(special_tokens(tokenizer).get("mask_token", ""))
        if mask_id is None:
            raise UserError("objective mlm: the encoder's tokenizer has no [MASK] token; a BERT tokenizer has one")
        vocabulary = tokenizer.get_vocab()
        special = torch.ones(max(vocabulary.values()) + 1, dtype=torch.bool)  # so are numbers that no token has
        special[[number for token, number in vocabulary.items() if token]] = False
        special[list(special_ids(tokenizer))] = True
        return cls(mask_id, special, rate, replace)

    def apply(self, batch: Batch, seeds: Sequence[int]) -> Batch:
        """The batch with tokens hidden and `targets` (S, T): the hidden token's id, NO_TARGET elsewhere.

        seeds: one a sentence; what is hidden in a sentence depends on its seed and its tokens alone, not on the
        batch, the padding or the rank. Sentences of weight 0 have no targets.
        """
        ids = batch.input_ids
        draws = np.ones((3, *ids.shape))
        for row, (seed, length) in enumerate(zip(seeds, batch.mask.sum(dim=1).tolist(), strict=True)):
            draws[:, row, :length] = np.random.Generator(np.random.Philox(seed)).random((3, length))
        chance, kind, token = torch.from_numpy(draws)
        chosen = (chance < self.rate) & ~self.special[ids] & batch.mask & (batch.weights > 0)[:, None]
        masked, random = REPLACE[self.replace]
        ordinary = torch.nonzero(~self.special).squeeze(1)
        # A draw of 1.0 marks padding, where nothing is chosen.
        randoms = ordinary[(token * len(ordinary)).long().clamp(max=len(ordinary) - 1)]
        hidden = torch.where(kind < masked, self.mask_id, torch.where(kind < masked + random, randoms, ids))
        targets = torch.where(chosen, ids, NO_TARGET)
        return replace(
            batch, input_ids=torch.where(chosen, hidden, ids), targets=targets, hidden=hidden_places(targets)
        )


def hidden_places(targets: Tensor) -> Tensor:
    """(M,) int64: where among all S * T positions a token is asked for. targets: (S, T), as a Batch has them."""
    return torch.nonzero(targets.flatten() != NO_TARGET).squeeze(1)
