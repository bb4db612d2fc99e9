"""Stages that do less than all: last-linear-layer with and without encodings kept, and masked-language modelling."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from unittest import mock

from benchmarks.material import BATCH, LEARNING_RATE, SEED, Material, minilm
from benchmarks.side import Pass
from benchmarks.training import train

EPOCHS, DEV = 10, 400
FILES = {"sst": "ids-sst", "quora": "quora"}
METRICS = {"sst": "sst/accuracy", "quora": "quora/accuracy"}


def last_layer(material: Material, task: str, again: bool) -> Callable[[], Pass]:
    """The whole command, ten epochs of the head; again: the frozen encoder runs anew in each of them."""
    from lightning_modules.dev import FrozenEncoder

    material.cut(f"{FILES[task]}-train", material.amount)
    material.cut(f"{FILES[task]}-dev", DEV)
    tree: dict[str, Any] = {
        "name": "bench", "encoder": "minilm-l6", "tasks": {task: {"head": "linear"}},
        "defaults": {"epochs": EPOCHS, "batch_size": BATCH, "validate": "stage", "precision": "32-true"},
        "stages": [{"name": "train", "tasks": [task], "train": "last-linear-layer", "lr": 1e-3}],
    }  # fmt: skip

    def make_pass() -> Pass:
        if again:
            with mock.patch.object(FrozenEncoder, "train", lambda encoder: None):
                outcome = train(material, tree)
        else:
            outcome = train(material, tree)
        return Pass(outcome["wall"], EPOCHS * material.amount, {"metric": outcome["metrics"][METRICS[task]]})

    return make_pass


def sst_ours(material: Material) -> Callable[[], Pass]:
    return last_layer(material, "sst", again=False)


def sst_again(material: Material) -> Callable[[], Pass]:
    return last_layer(material, "sst", again=True)


def quora_ours(material: Material) -> Callable[[], Pass]:
    return last_layer(material, "quora", again=False)


def quora_again(material: Material) -> Callable[[], Pass]:
    return last_layer(material, "quora", again=True)


def mlm_ours(material: Material) -> Callable[[], Pass]:
    """Every sentence of the pairs once, 15 % hidden; the steps, and tokenising."""
    from benchmarks.training import tokenising_seconds, write_pairs

    write_pairs(material)
    tree: dict[str, Any] = {
        "name": "bench", "encoder": "minilm-l6", "tasks": {"sts": {"head": "cosine"}},
        "defaults": {"epochs": 1, "batch_size": BATCH, "validate": "stage", "fused": True, "precision": "32-true",
                     "checkpoint_minutes": 1000.0},
        "stages": [{"name": "train", "objective": "mlm", "tasks": ["sts"], "train": "full-model", "lr": LEARNING_RATE,
                    "mlm": {"replace": "bert"}}],
    }  # fmt: skip

    def make_pass() -> Pass:
        seconds = train(material, tree)["training_seconds"] + tokenising_seconds(material)
        return Pass(seconds, 2 * material.amount)

    return make_pass


def mlm_transformers(material: Material) -> Callable[[], Pass]:
    """transformers' Trainer with its MLM collator, as its example script has it: tokenised first, then batched."""
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    sentences = [sentence for one, two, _ in material.pairs() for sentence in (one, two)]
    tokenizer = AutoTokenizer.from_pretrained(str(minilm()))
    start = BertForMaskedLM.from_pretrained(str(minilm()))
    arguments = TrainingArguments(
        str(material.folder), per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, save_strategy="no", report_to="none",
        logging_strategy="no", disable_tqdm=True, seed=SEED,
    )  # fmt: skip

    def make_pass() -> Pass:
        model = deepcopy(start)
        began = time.perf_counter()
        data = Dataset.from_dict({"text": sentences}).map(
            lambda rows: tokenizer(rows["text"], truncation=True, max_length=512), batched=True, remove_columns=["text"]
        )
        collator = DataCollatorForLanguageModeling(tokenizer)
        Trainer(model, arguments, train_dataset=data, data_collator=collator).train()
        return Pass(time.perf_counter() - began, len(sentences))

    return make_pass
