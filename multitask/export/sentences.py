"""A bundle as what `sentence-transformers` loads: the transformers files and a list of modules, whose last one makes
embeddings of length 1, which ours are."""

from __future__ import annotations

from pathlib import Path

import torch

from multitask.bundle.bundle import Bundle
from multitask.export.huggingface import in_dtype, write_json, write_transformers, write_weights
from multitask.model.layout import MODULES, POOLING_KEYS, SETTINGS, TRANSFORMER
from multitask.model.sources import TANH

POOLING, DENSE = "1_Pooling", "2_Dense"
PLAIN = ("Transformer", "Pooling", "Normalize")
# BERT's own pooler is a dense layer with tanh over the first token's state.
WITH_POOLER = ("Transformer", "Pooling", "Dense", "Normalize")


def write_sentence_transformers(bundle: Bundle, folder: Path, dtype: torch.dtype) -> list[str]:
    """Writes the folder for SentenceTransformer(folder), whose `encode` gives what `TextEncoder.embed` gives."""
    lines = write_transformers(bundle, folder, dtype)
    layers, mode = (WITH_POOLER, "cls") if bundle.pooling == "pooler" else (PLAIN, bundle.pooling)
    places = ["" if at == 0 else f"{at}_{kind}" for at, kind in enumerate(layers)]
    modules = [
        {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (place, kind) in enumerate(zip(places, layers, strict=True))
    ]
    for place in places[1:]:
        (folder / place).mkdir()
    pooling = {key: mode == named for key, named in POOLING_KEYS.items()}
    write_json(folder / POOLING / "config.json", {"word_embedding_dimension": bundle.config.hidden_size, **pooling})
    if DENSE in places:
        _write_pooler(bundle, folder / DENSE, dtype)
    write_json(folder / TRANSFORMER, {"max_seq_length": bundle.max_length, "do_lower_case": False})
    similarity: dict[str, object] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / SETTINGS, similarity)
    write_json(folder / MODULES, modules)
    return lines


def _write_pooler(bundle: Bundle, folder: Path, dtype: torch.dtype) -> None:
    width, tensors = bundle.config.hidden_size, in_dtype(bundle, dtype)
    facts = {"in_features": width, "out_features": width, "bias": True, "activation_function": TANH}
    write_json(folder / "config.json", facts)
    weights = {f"linear.{name}": tensors[f"encoder.pooler.dense.{name}"] for name in ("weight", "bias")}
    write_weights(folder / "model.safetensors", weights)
