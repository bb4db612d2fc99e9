"""Bundles to export, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multitask.bundle.bundle import Bundle, bundle_of, read_bundle
from multitask.data.batches import Batch, padded
from multitask.inference.embed import TextEncoder, Vectors
from multitask.storage.storage import Storage
from multitask.tasks.own import Definition, paired, spec_of
from multitask.tasks.table import TASKS
from ray_jobs.bundles.export import export_bundle, import_model
from ray_jobs.screen import Screen
from tests.helpers import tiny

# Every head, every label kind, joined pairs without segments and with them.
HEADS = {"sst": "bilstm", "cfimdb": "mlp", "quora": "interaction", "sts": "cosine", "jobs": "linear"}
HEADS |= {"suitability": "interaction", "moods": "linear", "skills": "linear"}
MOODS = {"kind": "multilabel", "words": ["joy", "anger", "fear"], "threshold": {"fear": 0.2}}
SPECS = TASKS | {"moods": spec_of("moods", Definition.model_validate({"columns": ["text"], "label": MOODS}), "here")}
SPECS |= {"skills": paired(TASKS["skills"], "joined", "here")}
TEXTS = [
    "How do I learn Spanish quickly?",
    "a",
    "An unforgettable, charming film. " * 30,
    "Ünïcödé — 日本 ½ [MASK]",
    "",
]
ABOUT: dict[str, Any] = {
    "recipe": "all",
    "stage": "last",
    "encoder": "tiny",
    "max_length": 48,
    "notes": {"sst": "weak"},
}


def bundle_with(heads: Mapping[str, str] = HEADS, pooling: str = "mean", mlm: str | None = "untied") -> Bundle:
    """The tiny encoder with heads, of the given pooling; every weight is drawn, none is zero."""
    model = replace(tiny(), pooling=pooling, specs=SPECS).model(dict(heads), seed=7, mlm=mlm)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return bundle_of(model, tiny().tokenizer_json, ABOUT)


def embedded(bundle: Bundle) -> Vectors:
    return TextEncoder(bundle).embed(TEXTS)


@torch.no_grad()
def answers(bundle: Bundle, task: str) -> Tensor:
    """What the head puts out for TEXTS; of pairs, each text with the one after it."""
    tokenizer = bundle.tokenizer
    tokenizer.enable_truncation(bundle.max_length)
    others, spec = [*TEXTS[1:], TEXTS[0]], bundle.specs[task]
    columns: list[Any] = [list(zip(TEXTS, others, strict=True))] if spec.joined else [TEXTS, others][: spec.sentences]
    encodings = [encoding for column in columns for encoding in tokenizer.encode_batch(column)]
    ids, mask = padded([encoding.ids for encoding in encodings])
    blank, types = torch.zeros(len(TEXTS)), torch.zeros_like(ids)
    for row, encoding in enumerate(encodings):
        types[row, : len(encoding)] = torch.tensor(encoding.type_ids)
    segments = types if spec.segments else None
    outputs: Tensor = bundle.model().eval()(Batch(task, ids, mask, blank, blank, blank.long(), segments=segments))
    return outputs


def exported(uri: str, form: str, folder: Path, dtype: str = "float32") -> Path:
    export_bundle(uri, form, str(folder), dtype, None, Screen())
    return folder


def imported(source: str | Path, folder: Path) -> Bundle:
    import_model(str(source), str(folder), Screen())
    return read_bundle(Storage(str(folder)))
