"""Texts -> sentence encodings and token states, with a bundle's encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from multitask.bundle.bundle import Bundle
from multitask.data.batches import padded
from multitask.data.progress import Done, silent
from multitask.data.samplers import Rows, eval_batches
from multitask.measure.evaluate import eval_tokens, scattered
from multitask.model.bert import NONE
from multitask.model.encoding import Encoding, encode

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Tokens:
    """One text's tokens without the special ones. states: (T, H). spans: (T, 2) characters of the text."""

    states: Vectors
    spans: NDArray[np.int64]


def default_device() -> torch.device:
    """The fastest device of this machine: CUDA, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class TextEncoder:
    """A bundle's encoder with its tokenizer. Texts are cut to `max_length` tokens, those of the bundle's training if
    none is given; dropout is off."""

    with_heads: ClassVar[bool] = False

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu", max_length: int | None = None) -> None:
        self.device = torch.device(device)
        self.model = bundle.model(None if self.with_heads else {}).to(self.device).eval()
        self.pooling, self.width = bundle.pooling, bundle.config.hidden_size
        self.max_length = min(max_length or bundle.max_length, bundle.config.max_position_embeddings)
        self.tokenizer = bundle.tokenizer
        self.tokenizer.enable_truncation(self.max_length)
        self.tokenizer.no_padding()

    def embed(self, texts: Sequence[str], progress: Done = silent) -> Vectors:
        """(N, H) sentence encodings, each of length 1, in the texts' order."""
        found: Vectors = F.normalize(self.sentences(texts, progress), dim=1).numpy()
        return found

    def sentences(self, texts: Sequence[str], progress: Done = silent, own: Mapping[int, nn.Module] = NONE) -> Tensor:
        """(N, H) sentence encodings on the CPU, in the texts' order; texts of similar length are encoded together.

        own: layers that stand for the encoder's own, by their numbers.
        """
        ids = self._ids(texts)

        def encoded(rows: Rows) -> Tensor:
            return self._encoded([ids[row] for row in rows], own).sentence

        return scattered(torch.zeros(len(ids), self.width), self._batches(ids), lambda rows: rows, encoded, progress)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's token states. With mean pooling a sentence encoding is the mean of all its tokens' states."""
        encodings = self.tokenizer.encode_batch(list(texts))
        found: list[Tokens | None] = [None] * len(encodings)
        for rows in self._batches([encoding.ids for encoding in encodings]):
            states = self._encoded([encodings[row].ids for row in rows]).tokens.cpu().numpy()
            for row, mine in zip(rows.tolist(), states, strict=True):
                ordinary = np.flatnonzero(np.array(encodings[row].special_tokens_mask) == 0)
                found[row] = Tokens(mine[ordinary], np.array(encodings[row].offsets, np.int64)[ordinary])
        return [tokens for tokens in found if tokens is not None]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts))]

    def _batches(self, ids: Sequence[Sequence[int]]) -> list[Rows]:
        lengths = np.array([len(some) for some in ids], np.int64)
        return eval_batches(lengths, eval_tokens(self.device.type))

    @torch.no_grad()
    def _encoded(self, ids: Sequence[Sequence[int]], own: Mapping[int, nn.Module] = NONE) -> Encoding:
        input_ids, mask = padded(ids)
        return encode(self.model.encoder, self.pooling, input_ids.to(self.device), mask.to(self.device), own=own)
