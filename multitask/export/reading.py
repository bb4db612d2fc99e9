"""A Hugging Face or sentence-transformers BERT as a bundle; what an export of ours says of heads comes back with it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import safetensors
from safetensors.torch import load as load_tensors
from tokenizers import normalizers
from torch import Tensor

from multitask.bundle import Bundle, bundle_from, is_bundle, source_bundle
from multitask.errors import UserError
from multitask.export.huggingface import FACTS, HEADS
from multitask.export.sentences import DENSE, LAYERS, MODULES, POOLING
from multitask.model.sources import SOURCES, load_source, located
from multitask.storage import Storage

POOLER = "encoder.pooler.dense"
# Where sentence-transformers, then transformers, say how many tokens a text may have.
LENGTHS = (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length"))
# A list of modules may leave the last one out: what we embed is of length 1 in any case.
NORMALIZE = "2_Normalize"
SETTINGS = "config_sentence_transformers.json"
READABLE = {layers for some in LAYERS.values() for layers in (some, some[:-1])}


def read_model(source: str) -> Bundle:
    """source: a directory, its URI, a hub id, or an encoder's name.

    Raises UserError for another architecture, for a pooling or a module that minibert has not, and where a file is
    missing or damaged.
    """
    if source in SOURCES:
        return source_bundle(load_source(source))
    if is_bundle(source):
        raise UserError(f"'{source}': is a bundle already; minibert import takes what transformers or others wrote")
    place = located(source)
    bundle, folder = source_bundle(load_source(place)), Storage(place)
    bundle = replace(bundle, about={**bundle.about, "encoder": source, "max_length": _max_length(bundle, folder)})
    bundle = _with_modules(bundle, folder)
    return _with_heads(bundle, folder) if folder.exists(FACTS) else bundle


def _with_modules(bundle: Bundle, folder: Storage) -> Bundle:
    """What sentence-transformers' list of modules makes of the encoder's states. Raises UserError where we cannot."""
    if not folder.exists(MODULES):
        return bundle
    listed = [module if isinstance(module, dict) else {} for module in _json(folder, MODULES, list)]
    layers = tuple(str(module.get("type")).rpartition(".")[2] for module in listed)
    places = [module.get("path") for module in listed][1:3]
    if layers not in READABLE or not all(place in (POOLING, DENSE, NORMALIZE) for place in places):
        said = ", ".join(f"{layer} in '{module.get('path')}'" for layer, module in zip(layers, listed, strict=True))
        raise UserError(
            f"{folder.uri}/{MODULES}: {said}; valid: Transformer, Pooling in {POOLING}, for BERT's pooler Dense in "
            f"{DENSE}, Normalize or not"
        )
    bundle = replace(bundle, tokenizer_json=_tokenizer_json(bundle, folder))
    if prompt := _prompt(folder):
        bundle = replace(bundle, about={**bundle.about, "prompt": prompt})
    return _with_dense(bundle, folder) if "Dense" in layers else bundle


def _prompt(folder: Storage) -> str:
    """What sentence-transformers puts before each text unless it is told otherwise."""
    settings = _json(folder, SETTINGS)
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    return str(prompts[name]) if isinstance(prompts, dict) and isinstance(name, str) and name in prompts else ""


def _tokenizer_json(bundle: Bundle, folder: Storage) -> str:
    """Of texts in lower case where sentence-transformers says so, as it makes them so: before all else."""
    tokenizer = bundle.tokenizer
    lower = _json(folder, LENGTHS[0][0]).get("do_lower_case", False)
    if not lower or tokenizer.encode("A").ids == tokenizer.encode("a").ids:
        return bundle.tokenizer_json
    before = [tokenizer.normalizer] if tokenizer.normalizer else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer.to_str()


def _with_dense(bundle: Bundle, folder: Storage) -> Bundle:
    """BERT's pooler, which sentence-transformers writes as a dense layer over the first token."""
    facts, width = _json(folder, f"{DENSE}/config.json"), bundle.config.hidden_size
    said = (facts.get("in_features"), facts.get("out_features"), facts.get("bias", True), bundle.pooling)
    activation = str(facts.get("activation_function")).rpartition(".")[2]
    if (*said, activation) != (width, width, True, "cls", "Tanh"):
        raise UserError(
            f"{folder.uri}/{DENSE}: {activation} of {said[0]} to {said[1]} over {bundle.pooling} pooling; valid: "
            f"BERT's own pooler, Tanh of {width} to {width} over cls pooling"
        )
    found = _tensors(folder, f"{DENSE}/model.safetensors")
    pooler = {f"{POOLER}.{name}": found.get(f"linear.{name}") for name in ("weight", "bias")}
    if any(value is None or value.shape != bundle.tensors[name].shape for name, value in pooler.items()):
        raise UserError(f"{folder.uri}/{DENSE}/model.safetensors: not the weights of {width} to {width}")
    weights = {name: value.float() for name, value in pooler.items() if value is not None}
    return replace(bundle, pooling="pooler", tensors={**bundle.tensors, **weights})


def _with_heads(bundle: Bundle, folder: Storage) -> Bundle:
    """The bundle that was exported, on the encoder that lies there. Raises UserError where its heads do not fit."""
    where, facts = f"{folder.uri}/{FACTS}", _json(folder, FACTS)
    pooling = bundle.pooling if folder.exists(MODULES) else facts.get("pooling")
    own = {**facts, "config": bundle.config.to_dict(), "pooling": pooling}
    try:
        found = bundle_from(own, {**bundle.tensors, **_tensors(folder, HEADS)}, bundle.tokenizer_json, where)
        found.model(mlm=found.mlm)
        _ = found.max_length
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: {type(error).__name__}: {error}; valid: as minibert export wrote it") from error
    return found


def _max_length(bundle: Bundle, folder: Storage) -> int:
    longest = bundle.config.max_position_embeddings
    said = (_json(folder, name).get(key) for name, key in LENGTHS)
    return next((length for length in said if type(length) is int and 0 < length <= longest), longest)


def _json(folder: Storage, name: str, kind: type = dict) -> Any:
    """What a JSON file holds; an empty one of its kind where there is no such file."""
    try:
        found = folder.read_json(name)
    except (FileNotFoundError, NotADirectoryError):
        return kind()
    except ValueError as error:
        raise UserError(f"{folder.uri}/{name}: not JSON: {error}") from error
    if not isinstance(found, kind):
        raise UserError(f"{folder.uri}/{name}: holds a {type(found).__name__}; valid: a {kind.__name__}")
    return found


def _tensors(folder: Storage, name: str) -> dict[str, Tensor]:
    try:
        return load_tensors(folder.read_bytes(name))
    except FileNotFoundError as error:
        raise UserError(f"{folder.uri}/{name}: no such file; it lies beside what names it") from error
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{folder.uri}/{name}: not a sound safetensors file: {error}") from error
