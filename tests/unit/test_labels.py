"""Kinds of labels: each says all that is asked of one, and one of several numbers goes all the way."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitask.bundle.bundle import source_bundle
from multitask.data.batches import collate
from multitask.data.shards import read_examples
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.export.graphs import output_of
from multitask.inference.predict import answers
from multitask.inference.submission import write_predictions
from multitask.measure.evaluate import EvalSet, measure, predictions
from multitask.measure.metrics import METRICS
from multitask.model.heads import ANY_LABEL, HEADS, loss_for
from multitask.model.multitask import MultitaskModel
from multitask.model.sources import load_source
from multitask.objectives.losses import LOSSES
from multitask.objectives.smart import divergence
from multitask.recipe.data_check import FileReport
from multitask.storage.storage import Storage
from multitask.tasks.cells import MalformedError, read_several
from multitask.tasks.labels import KINDS, KindName, LabelKind, LabelSpec, Metric, unit_of
from multitask.tasks.own import Definition, Label, spec_of
from multitask.tasks.table import TASKS, TaskSpec
from ray_jobs.batch.parts import _column

WORDS = ("joy", "anger", "fear")
SET = LabelSpec("multilabel", "mood", 0, 2, words=WORDS)
MOOD = TaskSpec("mood", ("text",), SET, "f1_macro", "linear", TASKS["sst"].files, ("mood", "Predicted_mood"))
ROWS = [("a good film", ["joy"]), ("two hours", []), ("an awful night", ["fear", "anger"]), ("bad", ["anger"])] * 5


def test_the_tables_hold_what_kinds_name() -> None:
    assert set(KINDS) == {*get_args(KindName)} == set(ANY_LABEL)
    assert set(METRICS) == {*get_args(Metric)}
    for name, kind in KINDS.items():
        label = LabelSpec(name, "x", 0, 1)
        assert {*kind.losses} <= LOSSES.keys() and {*kind.metrics} <= METRICS.keys()
        found = kind.read("1", "x", label, ())
        assert [*kind.counted(found)] == [1] and label.says(found) == "1"
        outputs = torch.zeros(4, *label.shape)
        assert kind.prediction(outputs, label).shape == (4, *np.shape(found))
        assert kind.divergence(outputs, outputs, label).shape == (4,)
        assert kind.probability is None or kind.probability(outputs).shape == outputs.shape
        assert "{" not in output_of(label).unit + output_of(label).label


def test_a_label_of_several_numbers_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"id": str(at), "text": text, "mood": mood}) for at, (text, mood) in enumerate(ROWS)]
    (tmp_path / "mood.jsonl").write_text("\n".join(lines))
    bundle, storage = source_bundle(load_source("tiny")), Storage(str(tmp_path / "runs"))
    uri = str(tmp_path / "mood.jsonl")
    table = load_tokens(storage, cache_tokens(storage, uri, MOOD, bundle.tokenizer, labelled=True, max_length=16))
    assert table.labels.tolist()[:4] == [[1, 0, 0], [0, 0, 0], [0, 1, 1], [0, 1, 0]]
    torch.manual_seed(0)
    model = MultitaskModel(bundle.config, bundle.pooling, {"mood": "linear"}, specs={"mood": MOOD})
    batch = collate("mood", table, np.arange(6), np.ones(6, np.float32))
    outputs = model(batch)
    assert HEADS["linear"].serves(MOOD) and outputs.shape == (6, 3)
    assert LOSSES[loss_for("linear", MOOD, None, "here")].sums(outputs, batch.labels, batch.weights)[0].isfinite()
    assert divergence(outputs, outputs + 1, SET).shape == (6,)
    measured = measure(model, {"mood": EvalSet.of("mood", table, "cpu")}, device=torch.device("cpu"))
    score, predicted = measured.scores["mood/f1_macro"], measured.predicted["mood"]
    assert score.value is not None and score.interval and score.interval[0] <= score.value <= score.interval[1]
    assert predicted.logits is not None and torch.equal(predicted.labels, (predicted.logits > 0).double())
    unsure = replace(KINDS["multilabel"], decides=False, prediction=lambda outputs, label: outputs.sigmoid())
    monkeypatch.setitem(cast(dict[str, LabelKind], KINDS), "multilabel", unsure)
    several = predictions(model, EvalSet.of("mood", table, "cpu"), device=torch.device("cpu"))
    assert several.logits is None and torch.allclose(several.labels, predicted.logits.sigmoid(), atol=1e-6)
    monkeypatch.undo()
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


# A cell's value -> the label, or what is said of it.
READ: list[tuple[object, tuple[float, ...] | str]] = [
    ("joy", (1, 0, 0)),
    (" fear |joy", (1, 0, 1)),
    ("2|0", (1, 0, 1)),
    (2, (0, 0, 1)),
    ("", (0, 0, 0)),
    (" ", (0, 0, 0)),
    ([], (0, 0, 0)),
    ("[]", (0, 0, 0)),
    (["fear", "anger"], (0, 1, 1)),
    ([2.0, 0], (1, 0, 1)),
    ('["fear", 1]', (0, 1, 1)),
    (None, "mood is missing"),
    ("joy|", "mood has a class without a name: 'joy|'"),
    ("|", "mood has a class without a name"),
    (["joy", None], "mood has a class without a name"),
    ("joy|fun", "mood is none of joy, anger, fear: 'fun'"),
    ("joy, fear", "mood is none of joy, anger, fear: 'joy, fear'; several have | between them"),
    ([3], "mood is none of joy, anger, fear: 3"),
    ([["joy"]], "mood is none of joy, anger, fear: ['joy']"),
    ("joy|fear|joy", "mood has a class twice: 'joy|fear|joy'"),
    ("joy|0", "mood has a class twice"),
    ([0, 1, 0], "mood has a class twice: [0, 1, 0]; valid: the classes that are there, each once"),
    ("['joy']", "mood is no JSON list"),
    ({"joy": 1}, "mood is none of joy, anger, fear"),
]


@pytest.mark.parametrize(("value", "expected"), READ)
def test_sets_of_classes_are_read(value: object, expected: tuple[float, ...] | str) -> None:
    if isinstance(expected, tuple):
        assert read_several(value, "mood", SET, ()) == expected
        return
    with pytest.raises(MalformedError) as caught:
        read_several(value, "mood", SET, ())
    assert str(caught.value).startswith(expected), caught.value


@given(
    st.lists(st.text("ab |[],\"'0", min_size=1).map(str.strip).filter(bool), min_size=2, max_size=6, unique=True),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_what_is_written_of_a_set_is_read_back(words: list[str], there: list[bool]) -> None:
    label = LabelSpec("multilabel", "x", 0, len(words) - 1, words=tuple(words))
    found = tuple(map(float, there[: len(words)]))
    written = KINDS["multilabel"].written(found, label)
    assert read_several(written, "x", label, ()) == found


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_files_of_sets_in_every_form(tmp_path: Path, kind: str) -> None:
    """datasets' numbers are those of the file's names, where it has some; an empty cell of a CSV is no class."""
    file, rows = tmp_path / f"mood.{kind}", [*(mood for _, mood in ROWS[:4]), None]
    if kind == "parquet":
        names = ["fear", "joy", "anger"]
        numbers = [None if row is None else [names.index(word) for word in row] for row in rows]
        feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
        table = pa.table({"text": list("abcde"), "mood": pa.array(numbers, pa.list_(pa.int64()))})
        info = json.dumps({"info": {"features": {"mood": feature}}})
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"text": "a", "mood": row}) + "\n" for row in rows))
    else:
        with open(file, "w", newline="") as out:
            writer = csv.writer(out, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([("text", "mood"), *(("a", "|".join(row)) for row in rows[:4] if row is not None)])
    found = read_examples(str(file), MOOD, labelled=True, max_bad_rows=1.0)
    assert [example.label for example in found.examples] == [(1, 0, 0), (0, 0, 0), (0, 1, 1), (0, 1, 0)]
    assert [row.reason for row in found.quarantined] == ["mood is missing"] * (kind in ("jsonl", "parquet"))


def test_thresholds_of_classes() -> None:
    define = {"columns": ["text"], "label": {"kind": "multilabel", "words": WORDS, "threshold": {"fear": 0.2}}}
    label = spec_of("mood", Definition.model_validate(define), "here").label
    outputs = torch.tensor([[-1.0, 0.1, -1.0], [1.0, -0.1, -1.5]])
    assert answers(outputs, label).labels.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert output_of(label).label == "the classes whose logits are above 0, 0, -1.38629436"
    assert output_of(SET).label == "the classes whose logits are above 0"


def test_labels_without_an_order_have_no_least_one_of_a_similar_pair() -> None:
    label = Label(column="x", kind="multilabel", words=["a", "b"], similar="a")
    definition = Definition(columns=["one", "two"], label=label)
    with pytest.raises(UserError, match=r"here\.label\.similar: of a multilabel label, which has no order"):
        spec_of("mood", definition, "here")


def test_a_unit_names_the_word_of_a_yes() -> None:
    label = TASKS["quora"].label
    assert unit_of(label) == "a logit; its sigmoid is the probability of 1"
    assert unit_of(replace(label, words=("no", "yes"))).endswith("the probability of yes")
    assert unit_of(TASKS["sts"].label) == "the label's own unit, 0 to 5"
