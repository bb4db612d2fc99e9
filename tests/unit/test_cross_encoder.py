"""One head of joined pairs in sentence-transformers and transformers: the numbers of `minibert predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multitask.bundle.bundle import Bundle, bundle_of, save_bundle
from multitask.errors import UserError
from multitask.inference.predict import Predictor
from multitask.storage.storage import Storage
from multitask.tasks.own import Definition, paired, spec_of
from multitask.tasks.table import TASKS
from ray_jobs.bundles.export import export_bundle
from ray_jobs.screen import Screen
from tests.exports import ABOUT, TEXTS, imported
from tests.helpers import tiny

FIRST, SECOND = TEXTS, [*TEXTS[1:], TEXTS[0]]
PAIRS = list(zip(FIRST, SECOND, strict=True))
LABELS: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary"},
    "score": {"kind": "score", "low": 0, "high": 5},
    "probability": {"kind": "probability"},
    "classes": {"words": ["against", "neither", "for"]},
    "multilabel": {"kind": "multilabel", "words": ["price", "staff"], "threshold": {"staff": 0.4}},
}


def bundle_with(heads: dict[str, str], pooling: str = "pooler", pairing: Any = "joined", types: int = 2) -> Bundle:
    """Drawn weights, none of which is zero; a task for each kind of label, and sst."""
    specs = dict(TASKS)
    for kind, label in LABELS.items():
        definition = Definition.model_validate({"columns": ["one", "two"], "label": label})
        specs[kind] = paired(spec_of(kind, definition, "here"), pairing, "here")
    config = replace(tiny().config, type_vocab_size=types)
    tensors = {n: t[:types] if "token_type" in n else t for n, t in tiny().tensors.items()}
    start = replace(tiny(), config=config, tensors=tensors, pooling=pooling, specs=specs)
    model, generator = start.model(heads, seed=7), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return bundle_of(model, tiny().tokenizer_json, ABOUT)


def written(folder: Path, bundle: Bundle, task: str | None = None, form: str = "cross-encoder") -> str:
    save_bundle(Storage(str(folder / "bundle")), "", bundle)
    export_bundle(str(folder / "bundle"), form, str(folder / "out"), "float32", None, Screen(), task)
    return str(folder / "out")


@pytest.mark.parametrize(("kind", "types"), [*((kind, 2) for kind in LABELS), ("binary", 1)])
def test_both_libraries_give_our_numbers(tmp_path: Path, kind: str, types: int) -> None:
    transformers, peer = (pytest.importorskip(name) for name in ("transformers", "sentence_transformers"))
    bundle = bundle_with({"sst": "linear", kind: "linear"}, types=types)
    folder, ours = written(tmp_path, bundle), Predictor(bundle)
    logits = ours.outputs(kind, FIRST, SECOND).numpy()

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), "no weight made up, none left over"
    inputs = tokenizer(FIRST, SECOND, truncation=True, padding=True, return_tensors="pt")
    assert ("token_type_ids" in inputs) == (types == 2) and inputs["input_ids"].shape[1] == bundle.max_length
    with torch.no_grad():
        theirs = model.eval()(**inputs).logits.numpy()
    assert np.abs(theirs - logits.reshape(theirs.shape)).max() < 1e-5

    found, scores = ours.answer(kind, FIRST, SECOND), peer.CrossEncoder(folder, device="cpu").predict(PAIRS)
    wanted = logits if found.probabilities is None or kind == "classes" else found.probabilities
    assert np.abs(scores - wanted).max() < 1e-5
    if kind == "score":
        assert np.abs(scores - found.labels).max() < 1e-5, "in the label's own unit, beyond 0..1"
        assert np.abs(scores).max() > 0
    names = {"binary": ["label"], "classes": LABELS["classes"]["words"], "multilabel": ["price", "staff"]}
    if kind in names:
        assert list(model.config.id2label.values()) == names[kind]


def test_it_comes_back_as_a_bundle_with_that_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = bundle_with({"score": "linear", "binary": "linear", "sst": "mlp"})
    found = imported(written(tmp_path, bundle, "score"), tmp_path / "back")
    assert found.heads == {"score": "linear"} and found.pooling == "pooler" and "left" not in caplog.text
    ours, back = (Predictor(some).outputs("score", FIRST, SECOND) for some in (bundle, found))
    assert torch.equal(ours, back)


JOINED = {"binary": "linear"}
REFUSED: dict[str, tuple[Bundle, str | None, str]] = {
    "another pooling": (bundle_with(JOINED, "mean"), None, "was trained with pooling: mean; valid: pooling: pooler"),
    "a deep head": (bundle_with({"binary": "mlp"}), None, "task 'binary': its head is mlp, .*; valid: head: linear"),
    "separate pairs": (
        bundle_with(JOINED, pairing="separate"), None, "its pairs are separate; valid: pair: joined",
    ),
    "pairs joined as before": (
        bundle_with({"suitability": "linear"}), None, r"its pairs are joined \(without segments\); valid: pair: joined",
    ),
    "one text": (bundle_with({"sst": "linear"}), None, "task 'sst' has one text; valid: a task of pairs with pair"),
    "a choice": (bundle_with({**JOINED, "score": "linear"}), None, "--task: missing; .* one head of binary, score"),
    "another task": (bundle_with(JOINED), "binry", "--task 'binry': the bundle has heads of binary; did you mean"),
    "the wrong one": (bundle_with({**JOINED, "sst": "linear"}), "sst", "task 'sst' has one text"),
    "no head": (bundle_with({}), None, "the bundle has no trained head"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_what_such_a_model_cannot_carry_is_refused(tmp_path: Path, fault: str) -> None:
    bundle, task, said = REFUSED[fault]
    with pytest.raises(UserError, match=said):
        written(tmp_path, bundle, task)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_other_formats_take_no_task(tmp_path: Path) -> None:
    said = r"--task 'binary': --format transformers takes all heads along; one alone is of cross-encoder"
    with pytest.raises(UserError, match=said):
        written(tmp_path, bundle_with(JOINED), "binary", "transformers")
