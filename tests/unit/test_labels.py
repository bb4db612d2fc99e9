"""Kinds of labels: each says all that is asked of one, and one of several numbers goes all the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from multitask.bundle.bundle import source_bundle
from multitask.data.batches import collate
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.export.graphs import output_of
from multitask.inference.predict import answers
from multitask.inference.submission import write_predictions
from multitask.measure.evaluate import EvalSet, measure
from multitask.measure.metrics import METRICS, Floats, majority_baseline
from multitask.model.heads import ANY_LABEL, HEADS, loss_for
from multitask.model.multitask import MultitaskModel
from multitask.model.sources import load_source
from multitask.objectives.losses import LOSSES
from multitask.objectives.smart import divergence
from multitask.recipe.data_check import FileReport
from multitask.storage.storage import Storage
from multitask.tasks.cells import Classes, read_class
from multitask.tasks.labels import KINDS, KindName, LabelSpec, Metric, word_or_number
from multitask.tasks.own import Definition, Label, spec_of
from multitask.tasks.table import TASKS, TaskSpec
from ray_jobs.batch.parts import _column

WORDS = ("joy", "anger", "fear")
SET = LabelSpec("set", "mood", 0, 2, words=WORDS)  # type: ignore[arg-type]
MOOD = TaskSpec("mood", ("text",), SET, "hits", "linear", TASKS["sst"].files, ("mood", "Predicted_mood"))  # type: ignore[arg-type]
ROWS = [("a good film", ["joy"]), ("two hours", []), ("an awful night", ["fear", "anger"]), ("bad", ["anger"])] * 5


def read_set(value: object, column: str, label: LabelSpec, classes: Classes) -> tuple[float, ...]:
    assert isinstance(value, list)
    there = [read_class(part, column, label, classes) for part in value]
    return tuple(float(at in there) for at in range(label.outputs))


def says_set(label: Sequence[float], spec: LabelSpec) -> str:
    return "|".join(word_or_number(at, spec) for at, there in enumerate(label) if there)


def bce_of_each(outputs: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    return (losses.mean(dim=1) * weights).sum(), weights.sum()


def hits(predictions: Floats, labels: Floats) -> Floats:
    return np.asarray((predictions == labels).mean(axis=(-1, -2)))


@pytest.fixture
def _sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of label that is a set of classes: of a class each, 1 where it is in the set."""
    binary = KINDS["binary"]
    kind = replace(
        KINDS["classes"],
        read=read_set,
        says=says_set,
        written=says_set,
        counted=lambda label: [at for at, there in enumerate(label) if there],
        ordered=False,
        prediction=binary.prediction,
        probability=binary.probability,
        decides=True,
        divergence=lambda *given: binary.divergence(*given).sum(dim=-1),
        losses=("bce_of_each",),
    )
    tables: Sequence[tuple[Any, str, Any]] = [
        *((KINDS, "set", kind), (ANY_LABEL, "set", kind.losses)),
        *((LOSSES, "bce_of_each", bce_of_each), (METRICS, "hits", hits)),
    ]
    for table, name, value in tables:
        monkeypatch.setitem(table, name, value)


def test_the_tables_hold_what_kinds_name() -> None:
    assert set(KINDS) == {*get_args(KindName)} == set(ANY_LABEL)
    assert set(METRICS) == {*get_args(Metric)}
    for name, kind in KINDS.items():
        label = LabelSpec(name, "x", 0, 1)
        assert {*kind.losses} <= LOSSES.keys() and {*kind.metrics} <= METRICS.keys()
        assert kind.counted(1.0) == (1,) and label.says(1.0) == "1"
        outputs = torch.zeros(4, *label.shape)
        assert kind.prediction(outputs, label).shape == kind.divergence(outputs, outputs, label).shape == (4,)
        assert kind.probability is None or kind.probability(outputs).shape == outputs.shape
        assert "{" not in output_of(label).unit + output_of(label).label


@pytest.mark.usefixtures("_sets")
def test_a_label_of_several_numbers_goes_all_the_way(tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(at), "text": text, "mood": mood}) for at, (text, mood) in enumerate(ROWS)]
    (tmp_path / "mood.jsonl").write_text("\n".join(lines))
    bundle, storage = source_bundle(load_source("tiny")), Storage(str(tmp_path / "runs"))
    uri = str(tmp_path / "mood.jsonl")
    table = load_tokens(storage, cache_tokens(storage, uri, MOOD, bundle.tokenizer, labelled=True, max_length=16))
    assert table.labels.tolist()[:4] == [[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]]
    model = MultitaskModel(bundle.config, bundle.pooling, {"mood": "linear"}, specs={"mood": MOOD})
    batch = collate("mood", table, np.arange(6), np.ones(6, np.float32))
    outputs = model(batch)
    assert HEADS["linear"].serves(MOOD) and outputs.shape == (6, 3)
    assert LOSSES[loss_for("linear", MOOD, None, "here")](outputs, batch.labels, batch.weights)[0].isfinite()
    assert divergence(outputs, outputs + 1, SET).shape == (6,)
    measured = measure(model, {"mood": EvalSet.of("mood", table, "cpu")}, device=torch.device("cpu"))
    score, predicted = measured.scores["mood/hits"], measured.predicted["mood"]
    assert score.value is not None and score.interval and score.interval[0] <= score.value <= score.interval[1]
    assert predicted.logits is not None and torch.equal(predicted.labels, (predicted.logits > 0).double())
    assert majority_baseline(table.labels, "set") == 0.25  # type: ignore[arg-type]
    found = answers(outputs.detach(), SET)
    assert found.probabilities is not None and found.labels.shape == found.probabilities.shape == (6, 3)
    assert _column(found.labels.astype(np.int32)).to_pylist() == found.labels.astype(int).tolist()
    path = write_predictions(storage, MOOD, "dev", table.ids[:3], table.labels[:3].tolist())
    assert storage.read_bytes(path).decode() == "id \t Predicted_mood \n0 , joy \n1 ,  \n2 , anger|fear \n"


@pytest.mark.parametrize(("labels", "said"), [(((0, 3), (2, 3)), "joy and fear"), ((), "empty"), (((1, 3),), "anger")])
def test_equal_labels_of_several_numbers_teach_nothing(labels: tuple[tuple[int, int], ...], said: str) -> None:
    report = FileReport("mood", "train", "mood.csv", rows=3, labels=labels, names=WORDS, spread=False)
    assert report.fault == f"mood.csv: every label is {said}: nothing to tell apart"
    assert not replace(report, spread=True).fault


@pytest.mark.usefixtures("_sets")
def test_labels_without_an_order_have_no_least_one_of_a_similar_pair() -> None:
    label = Label.model_construct(column="x", kind="set", words=["a", "b"], similar="a")  # type: ignore[arg-type]
    definition = Definition.model_construct(columns=["one", "two"], label=label)
    with pytest.raises(UserError, match=r"here\.label\.similar: of a set label, which has no order"):
        spec_of("mood", definition, "here")
