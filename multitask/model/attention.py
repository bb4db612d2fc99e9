"""Attention, and the two ways in which a batch's sentences lie in memory: padded to rows, or packed end to end.

Shapes as in bert.py; P is the number of all sentences' tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# weights_BNTT that tokens give each other -> the same under dropout
Drop = Callable[[Tensor], Tensor]
# (query_BNTD, key_BNTD, value_BNTD, mask_B11T, dropout or None) -> context_BNTD
AttentionKernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, Drop | None], Tensor]


def explicit_attention(
    query_BNTD: Tensor, key_BNTD: Tensor, value_BNTD: Tensor, mask_B11T: Tensor | None, drop: Drop | None
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V, step by step; keys where the mask is False get no weight."""
    scores_BNTT = query_BNTD @ key_BNTD.transpose(-1, -2) / math.sqrt(query_BNTD.shape[-1])
    if mask_B11T is not None:
        # The least finite number and not -inf: a row without any token then stays finite.
        scores_BNTT = scores_BNTT.masked_fill(~mask_B11T, torch.finfo(scores_BNTT.dtype).min)
    weights_BNTT = scores_BNTT.softmax(dim=-1)
    return (weights_BNTT if drop is None else drop(weights_BNTT)) @ value_BNTD


def sdpa_attention(
    query_BNTD: Tensor, key_BNTD: Tensor, value_BNTD: Tensor, mask_B11T: Tensor | None, drop: Drop | None
) -> Tensor:
    """`explicit_attention`'s numbers, to rounding, from PyTorch's fused kernel, which has no dropout but its own: with
    dropout it is `explicit_attention`."""
    if drop is not None:
        return explicit_attention(query_BNTD, key_BNTD, value_BNTD, mask_B11T, drop)
    return F.scaled_dot_product_attention(query_BNTD, key_BNTD, value_BNTD, mask_B11T)


ATTENTIONS: dict[str, AttentionKernel] = {"sdpa": sdpa_attention, "explicit": explicit_attention}


# (weights_BNTT that tokens give each other, the tokens' keys_BT) -> the weights under dropout
KeyedDrop = Callable[[Tensor, Tensor], Tensor]

# From so many tokens in a row on, dropout's weights of attention are computed again for the backward pass: kept, they
# would take more memory than all else in a layer. Of shorter rows they cost more time than memory.
RECOMPUTED = 128


def computed_again(function: Callable[..., Any], *given: Any) -> Any:
    """What the function makes of what it is given, computed a second time for the backward pass, for which only the
    latter is held. It must draw nothing from a random state; dropout by counting does not."""
    return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)


class Layout(Protocol):
    """Where the tokens of each sentence lie: (..., H) states are (B, T, H) or (P, H)."""

    @property
    def keys(self) -> Tensor | None:
        """(...) int32: what tokens' units are dropped by; None where nothing is."""
        ...

    def attend(
        self, kernel: AttentionKernel, query: Tensor, key: Tensor, value: Tensor, drop: KeyedDrop | None
    ) -> Tensor:
        """Every sentence's attention over itself: queries, keys, values and result are (..., N, D). drop: None where
        nothing is dropped."""
        ...


@dataclass(frozen=True, eq=False)
class Padded:
    """Every sentence a row of T tokens, padded on the right. mask_B11T: True at tokens; None where all are.
    keys: (B, T) int32, or None."""

    mask_B11T: Tensor | None
    keys: Tensor | None = None

    def attend(
        self, kernel: AttentionKernel, query: Tensor, key: Tensor, value: Tensor, drop: KeyedDrop | None
    ) -> Tensor:
        def dropped(weights_BNTT: Tensor) -> Tensor:
            assert drop is not None and self.keys is not None
            return drop(weights_BNTT, self.keys)

        def attended(*states: Tensor) -> Tensor:
            query, key, value = (some.transpose(1, 2) for some in states)
            return kernel(query, key, value, self.mask_B11T, dropped if drop else None).transpose(1, 2)

        if drop is None or query.shape[1] < RECOMPUTED or not torch.is_grad_enabled():
            return attended(query, key, value)
        again: Tensor = computed_again(attended, query, key, value)
        return again


class _Spread(torch.autograd.Function):
    """(P, ...) -> (B * T, ...): packed tokens to their places in rows. What stands at padding is some token's: masked
    as a key, dropped as a query, so no gradient comes from there. A plain index would add gradients up, slowly."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, places: Tensor, sources: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return packed.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradients[0].index_select(0, places), None, None


class _Collect(torch.autograd.Function):
    """(B * T, ...) -> (P, ...): tokens in rows packed end to end, padding left out."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, sources: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(sources, padding)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        sources, padding = ctx.saved_tensors
        spread = gradients[0].index_select(0, sources)
        spread[padding] = 0.0
        return spread, None, None, None


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Packed sentences as rows of T. mask_BT: True at tokens. places: (P,) of each token among B * T. sources: (B * T,)
    the token at each place, 0 at padding. padding: the places without a token."""

    mask_BT: Tensor
    places: Tensor
    sources: Tensor
    padding: Tensor

    @classmethod
    def of(cls, mask_BT: Tensor) -> PackedRows:
        flat = mask_BT.flatten()
        places = flat.nonzero().squeeze(1)
        sources = torch.zeros(len(flat), dtype=torch.int64).index_put_((places,), torch.arange(len(places)))
        return cls(mask_BT, places, sources, (~flat).nonzero().squeeze(1))

    def spread(self, packed: Tensor) -> Tensor:
        """(P, ...) -> (B, T, ...). Padding holds other tokens' states, and takes no gradient."""
        rows: Tensor = packed
        if len(self.padding):
            rows = _Spread.apply(packed, self.places, self.sources)  # type: ignore[no-untyped-call]
        return rows.view(*self.mask_BT.shape, *packed.shape[1:])

    def collect(self, rows: Tensor) -> Tensor:
        """(B, T, ...) in rows -> (P, ...) packed."""
        flat = rows.flatten(0, 1)
        if not len(self.padding):
            return flat
        packed: Tensor = _Collect.apply(flat, self.places, self.sources, self.padding)  # type: ignore[no-untyped-call]
        return packed


@dataclass(frozen=True, eq=False)
class Packed:
    """Sentences end to end without padding. groups: those that attend together, as rows, in the tokens' order. keys:
    (P,) int32, or None."""

    groups: Sequence[PackedRows]
    keys: Tensor | None = None

    @classmethod
    def of(cls, mask_BT: Tensor, most: int, keys_BT: Tensor | None = None) -> Packed:
        """How sentences that lie in rows, longest first, are packed. A group is of at most `most` padded tokens, or of
        one sentence."""
        lengths, groups, start = mask_BT.sum(dim=1).tolist(), [], 0
        while start < len(lengths):
            end = start + max(1, most // max(1, lengths[start]))
            groups.append(PackedRows.of(mask_BT[start:end, : lengths[start]]))
            start = end
        return cls(groups, None if keys_BT is None else keys_BT[mask_BT])

    def attend(
        self, kernel: AttentionKernel, query: Tensor, key: Tensor, value: Tensor, drop: KeyedDrop | None
    ) -> Tensor:
        sizes = [len(group.places) for group in self.groups]
        query_parts, key_parts, value_parts = (torch.split(states, sizes) for states in (query, key, value))
        keys = [None] * len(sizes) if self.keys is None else torch.split(self.keys, sizes)
        parts = zip(self.groups, keys, query_parts, key_parts, value_parts, strict=True)
        return torch.cat([self._attend(kernel, *part, drop) for part in parts])

    @staticmethod
    def _attend(
        kernel: AttentionKernel,
        group: PackedRows,
        keys_P: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        drop: KeyedDrop | None,
    ) -> Tensor:
        mask_B11T = group.mask_BT[:, None, None, :] if len(group.padding) else None
        padded = Padded(mask_B11T, None if keys_P is None else group.spread(keys_P))
        query, key, value = (group.spread(states) for states in (query, key, value))
        return group.collect(padded.attend(kernel, query, key, value, drop))
