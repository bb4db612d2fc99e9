"""A bundle as what `transformers` loads: config.json, model.safetensors, its tokenizer. What transformers has no place
for, heads and the bundle's own facts, goes into two files beside them, and comes back with `minibert import`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from multitask.bundle.bundle import Bundle, facts_of
from multitask.bundle.checks import ENCODER
from multitask.bundle.found import HEADS
from multitask.data.special import special_tokens
from multitask.errors import UserError
from multitask.export.rounding import rounding, upwards
from multitask.model.folders import FACTS
from multitask.model.tokenizer_files import words_of
from multitask.model.weights import POOLER, all_finite, has_pooler
from multitask.storage.retries import said_clearly
from multitask.storage.sealed import save_tensors


def write_transformers(bundle: Bundle, folder: Path, dtype: torch.dtype) -> list[str]:
    """Writes what BertModel.from_pretrained and AutoTokenizer load: given the same ids, transformers' states and pooler
    output are ours."""
    tensors = in_dtype(bundle, dtype)
    encoder = {name.removeprefix(ENCODER): value for name, value in tensors.items() if name.startswith(ENCODER)}
    if not has_pooler(encoder):  # zeros are no pooler, and would be one to others
        encoder = {name: value for name, value in encoder.items() if not name.startswith(POOLER)}
    others = {name: value for name, value in tensors.items() if not name.startswith(ENCODER)}
    write_weights(folder / "model.safetensors", encoder)
    write_weights(folder / HEADS, others)
    write_json(folder / "config.json", {**bundle.config.to_dict(), "torch_dtype": name_of(dtype)})
    write_facts(bundle, folder, dtype)
    write_tokenizer(bundle, folder)
    if dtype == torch.float32:
        return []
    wide, narrow = (upwards(rounding(bundle, dtype, arithmetic)) for arithmetic in (torch.float32, dtype))
    said = f"embeddings are within {wide} of the bundle's in float32, {narrow} in {name_of(dtype)} here"
    return [f"weights are stored as {name_of(dtype)}: {said}"]


def in_dtype(bundle: Bundle, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors in that dtype. Raises UserError for a weight that is too large for it."""
    tensors = {name: value.to(dtype) for name, value in bundle.tensors.items()}
    for name, value in tensors.items():
        if not all_finite(value):
            largest = float(bundle.tensors[name].abs().max())
            raise UserError(f"--dtype {name_of(dtype)}: {name} reaches {largest:g}; take --dtype float32")
    return tensors


def write_facts(bundle: Bundle, folder: Path, dtype: torch.dtype) -> None:
    facts = facts_of(bundle)
    if dtype != torch.float32:  # what comes back has lost digits, and says so
        facts["about"] = {**facts["about"], "dtype": name_of(dtype)}
    write_json(folder / FACTS, facts)


def write_tokenizer(bundle: Bundle, folder: Path, segments: bool = False) -> None:
    """Writes the tokenizer: tokenizer.json is the bundle's own; the files beside it say how Hugging Face's classes are
    to use it. segments: whether the model is to be told which segment a token is of."""
    special = special_tokens(bundle.tokenizer)
    write_text(folder / "tokenizer.json", bundle.tokenizer_json)
    write_json(folder / "special_tokens_map.json", special)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # tokenizer.json as it is, nothing made up from a vocabulary
        "model_max_length": bundle.max_length,
        # Without token_type_ids every token is of the first segment.
        "model_input_names": ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
        "padding_side": "right",
        **special,
        **_bert_settings(bundle.tokenizer_json),
    }
    write_json(folder / "tokenizer_config.json", settings)
    if (words := _vocabulary(bundle.tokenizer_json)) is not None:
        write_text(folder / "vocab.txt", "".join(f"{word}\n" for word in words))


def _bert_settings(tokenizer_json: str) -> dict[str, bool | None]:
    """The settings of a BertTokenizer that somebody makes by its class's name, which does not look into
    tokenizer.json."""
    normalizer = json.loads(tokenizer_json)["normalizer"] or {}
    if normalizer.get("type") != "BertNormalizer":
        return {}
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    return {theirs: normalizer[ours] for theirs, ours in names.items()}


def _vocabulary(tokenizer_json: str) -> list[str] | None:
    """WordPiece's tokens by id, added ones too; None for another kind of model, and where vocab.txt could not say it: a
    line's number would not be its token's id, or a line not its token."""
    if json.loads(tokenizer_json)["model"]["type"] != "WordPiece":
        return None
    numbers = Tokenizer.from_str(tokenizer_json).get_vocab()
    words = sorted(numbers, key=lambda word: numbers[word])
    try:
        read = words_of("".join(f"{word}\n" for word in words).encode(), "vocab.txt")
    except UserError:  # two words of which white space alone makes two
        return None
    return words if read == numbers else None


def write_weights(file: Path, tensors: Mapping[str, Tensor]) -> None:
    with said_clearly("written", str(file)):  # a full disk, say, which safetensors reports in its own way
        save_tensors(file, tensors, {"format": "pt"})  # transformers wants to be told


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    with said_clearly("written", str(file)):
        file.write_bytes(text.encode())


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
