"""Forward passes alone: sentences to embeddings, and the dev sets' predictions; ours and the usual way."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.material import BATCH, Material
from benchmarks.side import Pass
from benchmarks.training import sbert_modules

LONG = 0.05  # of the sentences: CFIMDB's reviews, of some 200 tokens; the others are SST's and Quora's
HEADS = {"sst": "linear", "cfimdb": "linear", "quora": "linear", "sts": "cosine"}
DEV_PAIRS = 4000  # of Quora's


def sentences(material: Material) -> list[str]:
    """Of mixed length and mixed order; some reviews twice, where there are not enough."""
    reviews = [row["sentence"] for row in material.some("ids-cfimdb-train", int(LONG * material.amount))]
    rest = material.amount - len(reviews)
    short = [row["sentence"] for row in material.some("ids-sst-train", rest // 3)]
    pairs = material.some("quora-train", rest - len(short))
    questions = list(dict.fromkeys(chain.from_iterable((row["sentence1"], row["sentence2"]) for row in pairs)))
    found = [*reviews, *short, *questions[: rest - len(short)]]
    return [found[at] for at in np.random.default_rng(0).permutation(len(found))]


def checksum(embeddings: Tensor) -> dict[str, float]:
    """What both sides have to agree on: each row's projection on a fixed direction, mean of absolute values."""
    direction = torch.randn(embeddings.shape[1], generator=torch.Generator().manual_seed(1))
    return {"projection": float((embeddings @ direction).abs().double().mean())}


def encode_ours(material: Material) -> Callable[[], Pass]:
    """From texts to embeddings, tokenising included."""
    from multitask.bundle.bundle import source_bundle
    from multitask.data.ids import Ids
    from multitask.data.readers import Example
    from multitask.data.tokens import TokenTable, tokenize
    from multitask.measure.evaluate import EvalSet, encode_sentences
    from multitask.model.sources import load_source

    bundle = source_bundle(load_source("minilm-l6"))
    model = bundle.model({}, dropout=0.0, encoder_dropout=None, seed=0, mlm=None).eval()
    tokenizer = load_source("minilm-l6").tokenizer
    texts = sentences(material)

    def make_pass() -> Pass:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tensors = tokenize((Example("", (text,), None) for text in texts), tokenizer, 256, Path(folder))
        ids = Ids(tensors["ids"], tensors["id_offsets"])
        table = TokenTable(tensors["input_ids"], tensors["offsets"], tensors["labels"], ids, 1, "", "", [])
        data = EvalSet.of("sst", table, "cpu")
        found = encode_sentences(model, data, np.arange(len(table)), device=torch.device("cpu"))
        return Pass(time.perf_counter() - began, len(texts), checksum(found))

    return make_pass


def encode_sbert(material: Material) -> Callable[[], Pass]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(modules=sbert_modules(), device="cpu")
    model.max_seq_length = 256
    texts = sentences(material)

    def make_pass() -> Pass:
        began = time.perf_counter()
        found = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return Pass(time.perf_counter() - began, len(texts), checksum(found))

    return make_pass


def dev(material: Material, in_file_order: bool) -> Callable[[], Pass]:
    """Every task's dev set through a model with all heads; Quora's cut. In file order: padded, as a plain loop is."""
    from multitask.bundle.bundle import source_bundle
    from multitask.data.batches import collate
    from multitask.data.tokens import cache_tokens, load_tokens
    from multitask.measure.evaluate import EvalSet, predictions
    from multitask.model.sources import load_source
    from multitask.storage.storage import Storage
    from multitask.tasks.table import TASKS

    source, storage = load_source("minilm-l6"), Storage(str(material.folder / "storage"))
    model = source_bundle(source).model(HEADS, dropout=0.0, encoder_dropout=None, seed=0, mlm=None)
    tables = {}
    for task in HEADS:
        name = TASKS[task].files["dev"]
        material.cut(name, DEV_PAIRS)
        uri = str(material.folder / f"{name}.csv")
        path = cache_tokens(storage, uri, TASKS[task], source.tokenizer, labelled=True, max_length=512)
        tables[task] = load_tokens(storage, path)

    if in_file_order:
        from multitask.model import encoding

        encoding.CPU_TOKENS = 10**9

    def make_pass() -> Pass:
        began, total = time.perf_counter(), 0.0
        for task, table in tables.items():
            data = EvalSet.of(task, table, "cpu")
            if in_file_order:
                rows = [np.arange(at, min(at + BATCH, len(table))) for at in range(0, len(table), BATCH)]
                data.batches = [collate(task, table, some, np.ones(len(some), np.float32)) for some in rows]
            total += float(predictions(model, data, device=torch.device("cpu")).labels.abs().sum())
        return Pass(time.perf_counter() - began, sum(map(len, tables.values())), {"predictions": total})

    return make_pass


def dev_ours(material: Material) -> Callable[[], Pass]:
    return dev(material, in_file_order=False)


def dev_file_order(material: Material) -> Callable[[], Pass]:
    return dev(material, in_file_order=True)
