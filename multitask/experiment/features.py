"""What a model that is not trained says of texts, a frozen encoder's sentence encodings or a teacher's outputs, kept in
`<storage>/cache/features/` under what it depends on."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from multitask.data.samplers import Rows
from multitask.experiment.stage_job import digest
from multitask.model.multitask import MultitaskModel
from multitask.storage.storage import Storage
from multitask.storage.tensors import open_tensors, write_tensors

FORMAT = 2  # the first had no seal

log = logging.getLogger(__name__)


def encoder_key(model: MultitaskModel, precision: str) -> str:
    """A hash of all that a sentence's encoding depends on: weights, sizes, pooling, precision."""
    found = hashlib.sha256(f"{model.config} {model.pooling} {precision}".encode())
    weights = model.encoder.state_dict() | {f"branches.{name}": t for name, t in model.branches.state_dict().items()}
    for name, value in sorted(weights.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@dataclass(frozen=True)
class FeatureCache:
    """What one model gives. All of it may be deleted; what cannot be read or written is made anew.

    encoder: what the model is known by: `encoder_key` of an encoder.
    """

    storage: Storage
    encoder: str

    def load(self, table: str, rows: Rows) -> Tensor | None:
        """(rows * sentences, H) encodings, or (rows, ...) outputs, for the rows `rows` of the token cache at path
        `table`; None where they are not there."""
        path = self._path(table, rows)
        try:
            if not self.storage.exists(path):
                return None
            file = open_tensors(self.storage, path, Path(path).stem)
            file.touch_all("features")  # a frozen stage goes through all of them in every epoch
            return file.tensors["features"]
        except Exception as error:  # every storage's client has its own
            log.warning("%s/%s: not readable, encoding again: %s", self.storage.uri, path, error)
            return None

    def save(self, table: str, rows: Rows, features: Tensor) -> None:
        path = self._path(table, rows)
        try:
            write_tensors(self.storage, path, {"features": features}, {}, Path(path).stem)
        except Exception as error:  # the stage has them in memory and need not end for a cache
            log.warning("%s/%s: not written: %s", self.storage.uri, path, error)

    def _path(self, table: str, rows: Rows) -> str:
        which = hashlib.sha256(rows.tobytes()).hexdigest()
        return f"cache/features/{digest([FORMAT, self.encoder, table, which])[:32]}.safetensors"
