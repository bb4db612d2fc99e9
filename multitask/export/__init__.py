"""Bundles in others' formats (FORMATS), with a model card (model_card.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from multitask.bundle.bundle import Bundle
from multitask.export.cross_encoder import write_cross_encoder
from multitask.export.huggingface import write_transformers
from multitask.export.onnx_files import ENTRY, write_onnx
from multitask.export.sentences import write_sentence_transformers

DTYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}


@dataclass(frozen=True)
class Format:
    """A format that bundles are exported in.

    write: (bundle, an empty folder, dtype) -> what to tell the user. entry: the file without which nobody takes the
    folder for a model. pipeline: what the hub calls its use. code: how it is used, on the model card. returns: whether
    `minibert import` makes a bundle of it again. library: what the hub calls the library that loads it, where that is
    not the format's name. one_head: whether it holds one head alone, in the encoder's own file.
    """

    write: Callable[[Bundle, Path, torch.dtype], list[str]]
    entry: str
    pipeline: str
    code: str
    returns: bool = True
    library: str = ""
    one_head: bool = False


TRANSFORMERS = """\
from transformers import AutoTokenizer, BertModel

tokenizer, model = AutoTokenizer.from_pretrained(PLACE), BertModel.from_pretrained(PLACE)
inputs = tokenizer(["A first text.", "A second."], truncation=True, padding=True, return_tensors="pt")
states = model(**inputs).last_hidden_state  # (texts, tokens, width)
"""
SENTENCES = """\
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer(PLACE).encode(["A first text.", "A second."])  # of length 1
"""
ONNX = """\
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = PLACE  # the directory, or what huggingface_hub.snapshot_download gives
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
tokenizer.enable_truncation(MAX_LENGTH)
tokenizer.enable_padding()
rows = tokenizer.encode_batch(["A first text.", "A second."])
ids, mask = np.array([row.ids for row in rows]), np.array([row.attention_mask for row in rows])
session = onnxruntime.InferenceSession(f"{folder}/embedding.onnx")
vectors = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]  # of length 1
"""

CROSS_ENCODER = """\
from sentence_transformers import CrossEncoder

scores = CrossEncoder(PLACE).predict([("A first text.", "A second."), ("A third.", "A fourth.")])
"""

FORMATS: dict[str, Format] = {
    "transformers": Format(write_transformers, "config.json", "feature-extraction", TRANSFORMERS),
    "sentence-transformers": Format(write_sentence_transformers, "config.json", "sentence-similarity", SENTENCES),
    "cross-encoder": Format(
        write_cross_encoder,
        "config.json",
        "text-classification",
        CROSS_ENCODER,
        library="sentence-transformers",
        one_head=True,
    ),
    "onnx": Format(write_onnx, ENTRY, "feature-extraction", ONNX, returns=False),
}
