"""Tokenising and caching many pairs: ours, and the datasets library's map."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from itertools import count

from benchmarks.material import Material, minilm
from benchmarks.side import Pass


def many_pairs(material: Material) -> None:
    """Quora's pairs again and again, with a number in each sentence so that no two are the same."""
    rows, number = material.rows("quora-train"), count()
    if (material.folder / "quora-train.csv").exists():
        return
    several = (rows[at % len(rows)] for at in range(material.amount))
    material.write(
        "quora-train",
        ("sentence1", "sentence2", "is_duplicate"),
        ([f"{row['sentence1']} {next(number)}", f"{row['sentence2']} {next(number)}", row["is_duplicate"]]
         for row in several),
    )  # fmt: skip


def ours(material: Material) -> Callable[[], Pass]:
    """Then again with the cache there: the warm start."""
    from multitask.data.tokens import cache_tokens, load_tokens
    from multitask.model.sources import load_source
    from multitask.storage.storage import Storage
    from multitask.tasks.table import TASKS

    many_pairs(material)
    tokenizer, cache = load_source("minilm-l6").tokenizer, material.folder / "storage"

    def read() -> tuple[float, int]:
        began = time.perf_counter()
        uri = str(material.folder / "quora-train.csv")
        path = cache_tokens(Storage(str(cache)), uri, TASKS["quora"], tokenizer, labelled=True, max_length=512)
        table = load_tokens(Storage(str(cache)), path)
        return time.perf_counter() - began, len(table.input_ids)

    def make_pass() -> Pass:
        shutil.rmtree(cache, ignore_errors=True)
        seconds, tokens = read()
        warm, _ = read()
        return Pass(seconds, material.amount, {"tokens": tokens, "warm": warm})

    return make_pass


def datasets(material: Material) -> Callable[[], Pass]:
    """Read as CSV, tokenised a thousand at a time by transformers' fast tokenizer."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    many_pairs(material)
    tokenizer, cache = AutoTokenizer.from_pretrained(str(minilm())), material.folder / "cache"

    def make_pass() -> Pass:
        shutil.rmtree(cache, ignore_errors=True)
        began = time.perf_counter()
        file = str(material.folder / "quora-train.csv")
        data = load_dataset("csv", data_files=file, delimiter="\t", cache_dir=str(cache), split="train")
        data = data.map(
            lambda rows: {
                name: tokenizer(rows[name], truncation=True, max_length=512)["input_ids"]
                for name in ("sentence1", "sentence2")
            },
            batched=True,
        )
        assert len(data) == material.amount
        return Pass(time.perf_counter() - began, material.amount)

    return make_pass
