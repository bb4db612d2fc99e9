"""Sentence encodings of a frozen encoder, kept in `<storage>/cache/features/` under what they depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from multitask.data.samplers import Rows
from multitask.experiment import digest
from multitask.model.multitask import MultitaskModel
from multitask.storage import Storage


def encoder_key(model: MultitaskModel, precision: str) -> str:
    """A hash of all that a sentence's encoding depends on: weights, pooling, precision."""
    found = hashlib.sha256(f"{model.config} {model.pooling} {precision}".encode())
    for name, value in sorted(model.encoder.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@dataclass(frozen=True)
class FeatureCache:
    """The encodings that one encoder gives; nothing is ever invalidated, and all of it may be deleted."""

    storage: Storage
    encoder: str

    def load(self, table: str, rows: Rows | None = None) -> Tensor | None:
        """(N * sentences, H) of the token cache at path `table`, None where they are not there; rows: as saved."""
        path = self._path(table, rows)
        if not self.storage.exists(path):
            return None
        return load_file(self.storage.local_file(path))["features"]

    def save(self, table: str, rows: Rows | None, features: Tensor) -> None:
        self.storage.write_bytes(self._path(table, rows), save({"features": features.contiguous()}))

    def _path(self, table: str, rows: Rows | None) -> str:
        which = None if rows is None else hashlib.sha256(rows.tobytes()).hexdigest()
        return f"cache/features/{digest([self.encoder, table, which])[:32]}.safetensors"
