"""Sentences as encodings: the states of their tokens, and one vector, pooled from these.

Shapes as in bert.py: B batch, T tokens, P tokens of all sentences, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multitask.model.attention import PackedRows, computed_again
from multitask.model.bert import NONE, MiniBert


@dataclass(frozen=True, eq=False)
class Encoding:
    """B encoded sentences: sentence (B, H), tokens (B, T, H), mask (B, T) bool, True at tokens.
    keys: (B, T) int32, what the tokens' units are dropped by, those of the sentence by the first one's; None where
    nothing is."""

    sentence: Tensor
    tokens: Tensor
    mask: Tensor
    keys: Tensor | None = None

    @property
    def first_keys(self) -> Tensor | None:
        return None if self.keys is None else self.keys[:, 0]


def mean_pool(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean of each sentence's states, padding left out: (B, H). A row without any token gives zeros."""
    weights_BT1 = mask_BT.to(hidden_BTH.dtype).unsqueeze(-1)
    return (hidden_BTH * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1).clamp(min=1.0)


def max_pool(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Each number's largest value over a sentence's states: (B, H). A row without any token gives zeros."""
    mask_BT1 = mask_BT.unsqueeze(-1)
    largest = hidden_BTH.masked_fill(~mask_BT1, torch.finfo(hidden_BTH.dtype).min).amax(dim=1)
    return largest.masked_fill(~mask_BT1.any(dim=1), 0.0)


def weighted_mean_pool(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """The mean of each sentence's states, the first weighing 1, the next 2 ...: (B, H) (Muennighoff, 2022, 3)."""
    weights_BT1 = (mask_BT.cumsum(dim=1) * mask_BT).to(hidden_BTH.dtype).unsqueeze(-1)
    return (hidden_BTH * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1).clamp(min=1.0)


def last_pool(hidden_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """The state of each sentence's last token: (B, H). Sentences are padded on the right."""
    last_B11 = (mask_BT.sum(dim=1) - 1).clamp(min=0)[:, None, None]
    return hidden_BTH.gather(1, last_B11.expand(-1, 1, hidden_BTH.shape[-1])).squeeze(1)


# How a sentence's states become one vector; only `pooler` uses the pooler's weights. All but that are named as
# sentence-transformers names them.
POOLINGS: dict[str, Callable[[MiniBert, Tensor, Tensor], Tensor]] = {
    "pooler": lambda bert, hidden_BTH, mask_BT: bert.pool(hidden_BTH),
    "cls": lambda bert, hidden_BTH, mask_BT: hidden_BTH[:, 0],
    "mean": lambda bert, hidden_BTH, mask_BT: mean_pool(hidden_BTH, mask_BT),
    "max": lambda bert, hidden_BTH, mask_BT: max_pool(hidden_BTH, mask_BT),
    "mean_sqrt_len_tokens": lambda bert, hidden_BTH, mask_BT: (
        mean_pool(hidden_BTH, mask_BT) * mask_BT.sum(dim=1, keepdim=True).to(hidden_BTH.dtype).sqrt()
    ),
    "weightedmean": lambda bert, hidden_BTH, mask_BT: weighted_mean_pool(hidden_BTH, mask_BT),
    "lasttoken": lambda bert, hidden_BTH, mask_BT: last_pool(hidden_BTH, mask_BT),
}


# On a CPU, a padded batch of more tokens than this is encoded packed, and attends in groups of similar length: nothing
# is computed for padding. Attention with dropout makes (sentences, heads, T, T) weights a group, and keeps them for the
# backward pass where T is below attention.py's RECOMPUTED.
CPU_TOKENS = 1024


def encode(
    bert: MiniBert,
    pooling: str,
    input_ids: Tensor,
    mask: Tensor,
    noise: Tensor | None = None,
    segments: Tensor | None = None,
    own: Mapping[int, nn.Module] = NONE,
    keys: Tensor | None = None,
) -> Encoding:
    """Ids (B, T) and their mask (B, T), padded on the right -> Encoding; pooling is a key of POOLINGS.

    noise: (B, T, H), added to the embeddings. segments: (B, T) int64; None means that all tokens are of the first. own:
    layers that stand for the encoder's own, by their numbers. keys: (B, T) int32, what each token's units are dropped
    by.
    """
    mask_BT = mask.bool()
    if input_ids.device.type == "cpu" and input_ids.numel() > CPU_TOKENS and len(input_ids) > 1:
        hidden_BTH = _encode_packed(bert, input_ids, mask_BT, noise, segments, own, keys)
    else:
        hidden_BTH = bert(input_ids, mask_BT, noise, segments, own, keys)
    return Encoding(POOLINGS[pooling](bert, hidden_BTH, mask_BT), hidden_BTH, mask_BT, keys)


def encode_in_parts(
    bert: MiniBert,
    pooling: str,
    input_ids: Tensor,
    mask: Tensor,
    noise: Tensor | None,
    segments: Tensor | None,
    own: Mapping[int, nn.Module],
    keys: Tensor | None,
    size: int,
) -> Encoding:
    """`encode`, of `size` sentences at a time, whose activations are computed again for the backward pass: no more
    than one part's are held at any time, and nothing else is different."""
    width = input_ids.shape[1]

    def encoded(*given: Tensor | None) -> tuple[Tensor, Tensor]:
        ids, mask, noise, segments, keys = given
        assert ids is not None and mask is not None
        found = encode(bert, pooling, ids, mask, noise, segments, own, keys)
        return found.sentence, F.pad(found.tokens, (0, 0, 0, width - ids.shape[1]))

    parts = []
    for at in range(0, len(input_ids), size):
        rows = slice(at, at + size)
        longest = int(mask[rows].sum(dim=1).max()) if mask.device.type == "cpu" else width  # which others wait for
        given = (input_ids, mask, noise, segments, keys)
        parts.append(computed_again(encoded, *(None if some is None else some[rows, :longest] for some in given)))
    sentence, tokens = (torch.cat(some) for some in zip(*parts, strict=True))
    return Encoding(sentence, tokens, mask.bool(), keys)


def _encode_packed(
    bert: MiniBert,
    input_ids: Tensor,
    mask_BT: Tensor,
    noise_BTH: Tensor | None,
    segments_BT: Tensor | None,
    own: Mapping[int, nn.Module],
    keys_BT: Tensor | None,
) -> Tensor:
    """`encode` by way of packed sentences: states (B, T, H), which at padding are some token's."""
    order = mask_BT.sum(dim=1).argsort(descending=True, stable=True)
    mask = mask_BT[order]
    noise = None if noise_BTH is None else noise_BTH[order]
    segments = None if segments_BT is None else segments_BT[order]
    keys = None if keys_BT is None else keys_BT[order]
    hidden_PH = bert.packed(input_ids[order], mask, noise, CPU_TOKENS, segments, own, keys)
    hidden_BTH: Tensor = PackedRows.of(mask).spread(hidden_PH)[order.argsort()]
    return hidden_BTH
