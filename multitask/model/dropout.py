"""Dropout by counting: whether a number is dropped is computed from where it stands, not drawn in turn.

It follows from the step's seed, the pass, the sentence's number in its table, the token's place, the dropout's place in
the model (its site) and the unit, and from nothing else. So the ranks of a group drop together what one process alone
drops, a resumed step drops what it dropped before, and a pass can be computed again without its mask being kept.
The bits are a product of two 32-bit numbers modulo 2^32, one of the token and one of the site's unit, both odd and
spread by splitmix64 (Steele, Lea and Flood, 2014): multiplicative hashing (Knuth, volume 3, 6.4).

Shapes, at the end of names where it helps: S sentences, T tokens, U units.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from multitask.data.samplers import derive_seed

GOLDEN = -7046029254386353131  # 2^64 / phi, odd, as an int64
FIRST, SECOND = -4658895280553007687, -7723592293110705685  # splitmix64's factors, as int64
SPAN = 1 << 32


def spread(numbers: Tensor) -> Tensor:
    """splitmix64's finaliser: int64 -> int64, each bit depending on all."""
    found = numbers
    for shift, factor in ((30, FIRST), (27, SECOND)):
        found = (found ^ _right(found, shift)) * factor
    return found ^ _right(found, 31)


def _right(numbers: Tensor, shift: int) -> Tensor:
    """int64 shifted as if it had no sign."""
    return (numbers >> shift) & ((1 << (64 - shift)) - 1)


def _signed(number: int) -> int:
    """The int64 that a number is, modulo 2^64."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _odd(numbers: Tensor) -> Tensor:
    """(...) int32, odd, from the upper half of int64."""
    return (numbers >> 32).to(torch.int32) | 1


@cache
def _units(site: str, width: int, device: torch.device) -> Tensor:
    """(U,) int32, odd: what stands for each unit of a site."""
    counted = torch.arange(1, width + 1, dtype=torch.int64) * GOLDEN
    return _odd(spread(counted + derive_seed("dropout", site))).to(device)


class Draws:
    """Where a step's dropout begins. Each pass that asks for its sentences' keys is another one.

    seed: 63 bits, of the step, whichever rank computes it.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.passes = seed, 0

    def sentences(self, numbers: Tensor) -> Tensor:
        """(S,) int64: the keys of sentences in the next pass. numbers: (S,) int64, what each is called in its table."""
        self.passes += 1
        return spread(spread(numbers * GOLDEN + self.seed) + _signed(self.passes * GOLDEN))


def any_sentences(count: int, device: torch.device) -> Tensor:
    """(S,) int64 keys from torch's own random state: for who trains without saying what step it is."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, (count,), dtype=torch.int64, device=device)


def token_keys(keys_S: Tensor, tokens: int) -> Tensor:
    """(S, T) int32, odd: the keys of sentences' tokens."""
    places = torch.arange(1, tokens + 1, device=keys_S.device) * GOLDEN
    return _odd(spread(keys_S[:, None] + places))


class Dropout(nn.Module):
    """Sets numbers to 0 with probability p, and divides the others by 1 - p. site: its place in the model."""

    def __init__(self, p: float, site: str) -> None:
        super().__init__()
        self.p, self.site = p, site

    @property
    def active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """x (..., U) of tokens whose keys are (...)."""
        if not self.active:
            return x
        assert keys is not None
        return self._of(x, keys.unsqueeze(-1) * _units(self.site, x.shape[-1], x.device))

    def of_weights(self, weights_SNTT: Tensor, keys_ST: Tensor, longest: int) -> Tensor:
        """The weights that T tokens give each other in N heads of attention. longest: the most tokens that a sentence
        can have."""
        heads, tokens = weights_SNTT.shape[1], weights_SNTT.shape[-1]
        units_NT = _units(self.site, heads * longest, keys_ST.device).view(heads, longest)[:, :tokens]
        return self._of(weights_SNTT, keys_ST[:, None, :, None] * units_NT[:, None, :])

    def _of(self, x: Tensor, drawn: Tensor) -> Tensor:
        """x where what was drawn, int32, says so. Numbers alone go to the device: a tensor would have it waited for."""
        return x.masked_fill(drawn < round(self.p * SPAN) - SPAN // 2, 0.0) * (1 / (1 - self.p))
