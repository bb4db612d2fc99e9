"""One head of a bundle on pairs that are joined, with the encoder under it, as what `transformers` loads for
classification and `sentence-transformers` loads as a CrossEncoder: BERT's pooler and one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from multitask.bundle.bundle import Bundle
from multitask.bundle.checks import ENCODER
from multitask.bundle.found import HEADS
from multitask.errors import UserError, near
from multitask.export.huggingface import in_dtype, name_of, write_facts, write_json, write_tokenizer, write_weights
from multitask.inference.predict import require
from multitask.model.heads import only_layer
from multitask.tasks.labels import KINDS, LabelSpec, unit_of, word_or_number

# What CrossEncoder.predict does to the logits, by transformers' kind of problem; names of torch, which it imports.
IDENTITY, SIGMOID = (f"torch.nn.modules.{name}" for name in ("linear.Identity", "activation.Sigmoid"))
ACTIVATIONS = {
    "regression": IDENTITY,
    "single_label_classification": IDENTITY,
    "multi_label_classification": SIGMOID,
}


def one_head(bundle: Bundle, task: str | None) -> Bundle:
    """The bundle with one head alone: that of `task`, or else the only one that a cross-encoder can carry.

    Raises UserError, saying what would be valid, where it can carry none, or several and no task is named.
    """
    reasons = {name: _unfit(bundle, name) for name in bundle.answers}
    fit = [name for name, reason in reasons.items() if not reason]
    if task is None and len(fit) > 1:
        raise UserError(f"--task: missing; a cross-encoder can carry one head of {', '.join(fit)}")
    if task is None and not fit:
        said = "; ".join(reasons.values()) or "the bundle has no trained head"
        raise UserError(f"--format cross-encoder: {said}")
    chosen = task or fit[0]
    if chosen not in bundle.heads:
        known = ", ".join(bundle.heads) or "none"
        raise UserError(f"--task '{chosen}': the bundle has heads of {known}{near(chosen, bundle.heads)}")
    require(bundle, chosen)
    if reasons[chosen]:
        raise UserError(f"--format cross-encoder: {reasons[chosen]}")
    return bundle.of_task(chosen)


def _unfit(bundle: Bundle, task: str) -> str:
    """Why a cross-encoder cannot carry the task's head, with what would be valid; empty where it can."""
    spec, name = bundle.specs[task], bundle.heads[task]
    if len(spec.columns) < 2:
        return f"task '{task}' has one text; valid: a task of pairs with pair: joined"
    if not spec.segments:
        return f"task '{task}': its pairs are {spec.pairing}; valid: pair: joined"
    if only_layer(bundle.model({task: name}).heads[task]) is None:
        return f"task '{task}': its head is {name}, more than one layer; valid: head: linear"
    if bundle.pooling != "pooler":
        return f"task '{task}': it was trained with pooling: {bundle.pooling}; valid: pooling: pooler, BERT's own"
    return ""


def write_cross_encoder(bundle: Bundle, folder: Path, dtype: torch.dtype) -> list[str]:
    """Writes what CrossEncoder and AutoModelForSequenceClassification load: given a pair, transformers' logits are what
    the bundle's only head puts out. Returns what to tell the user."""
    ((task, _),) = bundle.heads.items()
    label, tensors = bundle.specs[task].label, in_dtype(bundle, dtype)
    encoder = {f"bert.{name.removeprefix(ENCODER)}": t for name, t in tensors.items() if name.startswith(ENCODER)}
    head = {name: value for name, value in tensors.items() if not name.startswith(ENCODER)}
    layer = only_layer(bundle.model().heads[task])
    assert layer is not None, "one_head lets no other head in here"
    classifier = {f"classifier.{name}": value.to(dtype) for name, value in layer.state_dict().items()}
    write_weights(folder / "model.safetensors", encoder | classifier)
    write_weights(folder / HEADS, head)
    write_json(folder / "config.json", {**bundle.config.to_dict(), **_classifies(label), "torch_dtype": name_of(dtype)})
    write_facts(bundle, folder, dtype)
    write_tokenizer(bundle, folder, segments=bundle.config.type_vocab_size > 1)
    kind = KINDS[label.kind]
    gives = "its sigmoid" if ACTIVATIONS[kind.problem] == SIGMOID else "it as it is"
    lines = [f"{task}: transformers gives {unit_of(label)}; CrossEncoder.predict gives {gives}"]
    return lines if dtype == torch.float32 else [*lines, f"weights are stored as {name_of(dtype)}"]


def _classifies(label: LabelSpec) -> Mapping[str, Any]:
    """What config.json says of a classifier of such labels."""
    problem = KINDS[label.kind].problem
    names = [word_or_number(at, label) for at in range(label.outputs)] if label.shape else [label.column]
    return {
        "architectures": ["BertForSequenceClassification"],
        "problem_type": problem,
        "id2label": {str(at): name for at, name in enumerate(names)},
        "label2id": {name: at for at, name in enumerate(names)},
        "sentence_transformers": {"activation_fn": ACTIVATIONS[problem]},
        "sbert_ce_default_activation_function": ACTIVATIONS[problem],  # where versions before 4 look
    }
