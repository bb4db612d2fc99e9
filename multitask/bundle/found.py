"""Whatever can be trained from as a bundle: a bundle, an encoder's name, or someone else's model, of which an export of
ours brings its heads back. Every command that is given a model reads it here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import safetensors
from safetensors.torch import load as load_tensors
from torch import Tensor

from multitask.bundle.bundle import (
    Bundle,
    bundle_fingerprint,
    bundle_from,
    check_no_ensemble,
    is_bundle,
    read_bundle,
    source_bundle,
)
from multitask.bundle.ensemble import Answering
from multitask.errors import UserError
from multitask.model.folders import FACTS, Folder
from multitask.model.layout import MODULES
from multitask.model.mlm import MLM
from multitask.model.sources import SOURCES, load_source, located
from multitask.storage.storage import Storage

HEADS = "minibert.safetensors"  # what an export of ours adds to a folder: the weights that are not the encoder's


Some = TypeVar("Some", bound=Answering, covariant=True)


@dataclass(frozen=True)
class Found(Generic[Some]):
    """A bundle, or an ensemble of some, and a hash of its content, wherever it lies."""

    bundle: Some
    fingerprint: str


def found_at(uri: str, seed: int = 0, pooling: str | None = None) -> Found[Bundle]:
    """A bundle's directory or URI, or what `read_source` reads."""
    if is_bundle(uri):
        return Found(read_bundle(Storage(uri)), bundle_fingerprint(Storage(uri)))
    return read_source(uri, seed, pooling)


def read_source(source: str, seed: int = 0, pooling: str | None = None) -> Found[Bundle]:
    """The bundle, with its hash, that someone's model or an encoder's name makes.

    source: an encoder's name, a directory of transformers or sentence-transformers, its URI, or a hub id.

    pooling: the one to be used, where it is not to be the folder's own. Raises UserError for another architecture, for
    a module that minibert has not, and where a file is missing or damaged.
    """
    if source in SOURCES:
        return _found(source_bundle(load_source(source, seed, pooling)))
    check_no_ensemble(Storage(source))
    place = located(source)
    folder, named = Folder(place), source_bundle(load_source(place, seed, pooling), source)
    return _found(named) if folder.facts is None else _with_heads(named, folder, folder.facts, pooling)


def read_model(source: str, pooling: str | None = None) -> Bundle:
    """The bundle alone of what `read_source` reads, without its hash."""
    return read_source(source, 0, pooling).bundle


def _found(bundle: Bundle) -> Found[Bundle]:
    return Found(bundle, str(bundle.about["fingerprint"]))


def _with_heads(bundle: Bundle, folder: Folder, facts: dict[str, Any], pooling: str | None) -> Found[Bundle]:
    """The bundle that was exported to a folder: its heads, on the encoder that lies in the folder. Raises UserError
    where they do not fit it."""
    where = folder.at(FACTS)
    own = bundle.pooling if pooling or folder.has(MODULES) else facts.get("pooling")
    tensors, told = _tensors(folder, HEADS), {**facts, "config": bundle.config.to_dict(), "pooling": own}
    try:
        found = bundle_from(told, {**bundle.tensors, **tensors}, bundle.tokenizer_json, where)
        found.model(mlm=found.mlm)
        _ = found.max_length
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: {type(error).__name__}: {error}; valid: as minibert export wrote it") from error
    fingerprint = str(bundle.about["fingerprint"])
    return Found(found, _fingerprint(fingerprint, facts, tensors) if tensors else fingerprint)


def _fingerprint(encoder: str, facts: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """A hash of an encoder's fingerprint and the heads on it."""
    told = {key: facts.get(key) for key in ("heads", MLM, "specs", *(["branches"] if "branches" in facts else []))}
    digest = hashlib.sha256(f"{encoder} {json.dumps(told, sort_keys=True)}".encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].float().contiguous().numpy().data)
    return digest.hexdigest()


def _tensors(folder: Folder, name: str) -> dict[str, Tensor]:
    data, where = folder.find(name), folder.at(name)
    if data is None:
        raise UserError(f"{where}: no such file; it lies beside what names it")
    try:
        return load_tensors(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{where}: not a sound safetensors file: {error}") from error
