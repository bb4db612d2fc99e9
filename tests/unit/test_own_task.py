"""A task of one's own as it is said: its definition, its labels, its fingerprint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.shards import read_examples
from multitask.errors import UserError
from multitask.experiment.stage_job import digest, stage_content
from multitask.export.graphs import output_of
from multitask.recipe.checks import build_recipe
from multitask.recipe.loading import apply_override
from multitask.recipe.parsing import parse_yaml
from multitask.recipe.stages import Recipe
from multitask.tasks.labels import KINDS
from multitask.tasks.own import Definition, definition_of, definitions, known, spec_of
from multitask.tasks.table import TASKS, TaskSpec

WORDS = ["negative", "neutral", "positive"]
TEXT = """
name: own
encoder: tiny
tasks:
  tone:
    define: {columns: [text], label: {column: tone, words: [negative, neutral, positive]}}
stages: [{name: tone, tasks: [tone], train: full-model, lr: 1.0e-3}]
"""


def build(*overrides: str) -> Recipe:
    tree: Any = parse_yaml(TEXT, "my.yaml")
    for override in overrides:
        apply_override(tree, override)
    return build_recipe(tree, "my.yaml")


def made(**definition: Any) -> TaskSpec:
    return spec_of("mine", Definition.model_validate(definition), "define")


PAIR = ["first", "second"]
SCORE = {"kind": "score", "low": 0, "high": 1}
# A definition -> kind, low, high, metric, head.
DEFAULTS: list[tuple[dict[str, Any], tuple[str, float, float, str, str]]] = [
    ({"columns": ["text"], "label": {"words": WORDS}}, ("classes", 0, 2, "accuracy", "linear")),
    ({"columns": ["text"], "label": {"kind": "classes", "high": 4}}, ("classes", 0, 4, "accuracy", "linear")),
    ({"columns": ["text"], "label": {"kind": "binary"}}, ("binary", 0, 1, "accuracy", "linear")),
    (
        {"columns": ["text"], "label": {"words": WORDS, "kind": "multilabel"}},
        ("multilabel", 0, 2, "f1_micro", "linear"),
    ),
    ({"columns": PAIR, "label": {"kind": "multilabel", "high": 9}}, ("multilabel", 0, 9, "f1_micro", "interaction")),
    ({"columns": ["text"], "label": SCORE}, ("score", 0, 1, "pearson", "linear")),
    ({"columns": PAIR, "label": SCORE}, ("score", 0, 1, "pearson", "cosine")),
    ({"columns": PAIR, "label": {**SCORE, "low": -1}}, ("score", -1, 1, "pearson", "interaction")),
    ({"columns": PAIR, "label": SCORE, "joined": True}, ("score", 0, 1, "pearson", "interaction")),
    ({"columns": PAIR, "label": {"kind": "probability"}}, ("probability", 0, 1, "pearson", "interaction")),
    ({"columns": PAIR, "label": {"words": WORDS}, "metric": "pearson"}, ("classes", 0, 2, "pearson", "interaction")),
]


@pytest.mark.parametrize(("definition", "expected"), DEFAULTS)
def test_what_is_not_said_follows_from_what_is(definition: dict[str, Any], expected: tuple[object, ...]) -> None:
    spec = made(**definition)
    assert (spec.label.kind, spec.label.low, spec.label.high, spec.metric, spec.head) == expected
    assert spec.files == {"train": "mine-train", "dev": "mine-dev", "test": "mine-test"}
    assert (spec.prediction, spec.label.column) == (("mine", "Predicted_mine"), "label")


# What is set -> the YAML path, the value, what would be valid.
DEFINE = "tasks.tone.define"
WRONG = {
    "tasks.rte={}": ["tasks.rte: unknown task 'rte'", "known tasks: sst", "`define:`"],
    "tasks.sst={define: {columns: [text], label: {words: [a, b]}}}": ["tasks.sst.define", "'sst' is taken", "quora"],
    "tasks.para={define: {columns: [text], label: {words: [a, b]}}}": ["tasks.para.define", "'para' is taken"],
    "tasks.values={define: {columns: [text], label: {words: [a, b]}}}": ["'values' is taken"],
    "tasks.mlm={define: {columns: [text], label: {words: [a, b]}}}": ["'mlm' is taken"],
    "tasks={a/b: {define: {columns: [text], label: {words: [a, b]}}}}": ["'a/b' names files", "letters, digits"],
    "tasks={a.b: {define: {columns: [text], label: {words: [a, b]}}}}": ["'a.b' names files"],
    f"{DEFINE}.colums=[x]": [f"{DEFINE}.colums: unknown key", "columns, joined, label, metric"],
    f"{DEFINE}.label.word=[x]": [f"{DEFINE}.label.word: unknown key", "column", "words"],
    f"{DEFINE}.label.kind=class": [f"{DEFINE}.label.kind: 'class'", "'classes', 'binary', 'score'"],
    f"{DEFINE}.label.words=null": [f"{DEFINE}.label.words"],
    f"{DEFINE}.label={{column: tone}}": [f"{DEFINE}.label.kind: missing", "classes, binary, score, probability"],
    f"{DEFINE}.label={{kind: score}}": [f"{DEFINE}.label.low: missing"],
    f"{DEFINE}.label={{kind: classes}}": [f"{DEFINE}.label.high: missing"],
    f"{DEFINE}.label={{kind: classes, low: 3, high: 2}}": [f"{DEFINE}.label: low 3 is not below high 2"],
    f"{DEFINE}.label={{kind: classes, high: 2.5}}": [f"{DEFINE}.label: classes from 0 to 2.5", "whole numbers"],
    f"{DEFINE}.label={{kind: classes, high: 5000}}": ["classes from 0 to 5000", "1000 at most"],
    f"{DEFINE}.label={{kind: binary, high: 2}}": [f"{DEFINE}.label: a binary label is in 0..1"],
    f"{DEFINE}.label={{kind: score, low: 0, high: .inf}}": [f"{DEFINE}.label.high: inf", "finite"],
    f"{DEFINE}.label.low=1": [f"{DEFINE}.label: words and low or high", "0 to 2"],
    f"{DEFINE}.label.words=[a, b, a]": [f"{DEFINE}.label.words: 'a' stands there twice"],
    f"{DEFINE}.label.words=[a]": [f"{DEFINE}.label.words: 1 of them", "2 to 1000"],
    f"{DEFINE}.label.words=[yes, no]": [f"{DEFINE}.label.words.0: True", "put it in quotes"],
    f"{DEFINE}.label.words=[' a', b]": [f"{DEFINE}.label.words.0: ' a'"],
    f'{DEFINE}.label.words=["a\\nb", b]': [f"{DEFINE}.label.words.0"],
    f"{DEFINE}.label.kind=binary": [f"{DEFINE}.label.words: 3 of them", "two, that of 0 first"],
    f"{DEFINE}.label.kind=score": [f"{DEFINE}.label.words: of a score label", "classes"],
    f"{DEFINE}.label.threshold=0.5": [f"{DEFINE}.label.threshold: of a classes label", "valid for binary, multilabel"],
    f"{DEFINE}.label={{kind: multilabel}}": [f"{DEFINE}.label.high: missing"],
    f"{DEFINE}.label={{kind: multilabel, words: [a]}}": [f"{DEFINE}.label.words: 1 of them; valid", "2 to 1000"],
    f"{DEFINE}.label={{kind: multilabel, words: [joy, fear], threshold: {{jo: 0.3}}}}": [
        f"{DEFINE}.label.threshold: 'jo' is none of joy, fear; did you mean joy?",
    ],
    f"{DEFINE}.label={{kind: multilabel, words: [joy, fear], threshold: {{joy: 0}}}}": [f"{DEFINE}.label.threshold: 0"],
    f"{DEFINE}={{columns: [a, b], label: {{kind: multilabel, words: [a, b], similar: a}}}}": ["which has no order"],
    f"{DEFINE}={{columns: [a], label: {{kind: multilabel, words: [a, b]}}, metric: accuracy}}": [
        f"{DEFINE}.metric: 'accuracy' of a multilabel label",
        "valid: f1_micro, f1_macro, average_precision",
    ],
    f"{DEFINE}.label={{kind: binary, threshold: 1}}": [f"{DEFINE}.label.threshold: 1; valid: a probability between"],
    f"{DEFINE}.label={{kind: binary, threshold: {{'1': 0.3}}}}": [f"{DEFINE}.label.threshold: a binary label has one"],
    f"{DEFINE}.label={{kind: binary, threshold: x}}": [f"{DEFINE}.label.threshold: 'x'", "number"],
    f"{DEFINE}.label={{kind: binary, threshold: {{a: x}}}}": [f"{DEFINE}.label.threshold.a: 'x'", "number"],
    f"{DEFINE}.label.similar=positive": [f"{DEFINE}.label.similar", "columns: two"],
    f"{DEFINE}.columns=[a, b, c]": [f"{DEFINE}.columns", "at most 2"],
    f"{DEFINE}.columns=[]": [f"{DEFINE}.columns", "at least 1"],
    f"{DEFINE}.columns=text": [f"{DEFINE}.columns: 'text'", "list"],
    f"{DEFINE}.columns=[tone]": [f"{DEFINE}.columns: tone", "a name of its own"],
    f"{DEFINE}.columns=[a, a]": [f"{DEFINE}.columns: a, a", "a name of its own"],
    f"{DEFINE}.columns=[id]": [f"{DEFINE}.columns: id", "not 'id'"],
    f"{DEFINE}.joined=true": [f"{DEFINE}.joined", "columns has one"],
    f"{DEFINE}.metric=f2": [f"{DEFINE}.metric: 'f2'", "'accuracy', 'balanced_accuracy'"],
    f"{DEFINE}.metric=f1": [f"{DEFINE}.metric: 'f1' of a classes label", "valid: accuracy, pearson"],
    f"{DEFINE}={{columns: [a], label: {{kind: score, low: 0, high: 1}}, metric: accuracy}}": [
        f"{DEFINE}.metric: 'accuracy' of a score label",
        "valid: pearson",
    ],
    "tasks.tone.head=cosine": ["tasks.tone", "'cosine' cannot serve task 'tone'", "linear"],
    "tasks.tone.columns.sentence=x": ["tasks.tone.columns: 'sentence'", "text, tone, id"],
    "stages.tone.objective=ranking": ["stages.tone.tasks: 'tone' has no similar pairs", "quora"],
    "stages.tone.keep={best: tone/pearson}": ["'tone/pearson' is not measured", "tone/accuracy"],
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_definition_is_one_line_that_says_where(override: str) -> None:
    with pytest.raises(UserError) as caught:
        build(override)
    message = str(caught.value)
    assert message.startswith("my.yaml: ") and all(part in message for part in WRONG[override]), message


def test_similar_may_be_a_word_or_a_number() -> None:
    for similar in ("positive", 2):
        assert made(columns=PAIR, label={"words": WORDS, "similar": similar}).label.similar == 2
    assert made(columns=PAIR, label={"kind": "classes", "low": 1, "high": 5, "similar": 4}).label.similar == 3
    assert made(columns=PAIR, label={"words": [1, 2, 3], "similar": 3}).label.similar == 2, "a word goes first"
    for similar in ("good", 3, 0.5):
        with pytest.raises(UserError, match=r"define.label.similar: .* is none of negative, neutral, positive"):
            made(columns=PAIR, label={"words": WORDS, "similar": similar})
    with pytest.raises(UserError, match=r"similar: '7' is no label; valid: 0 to 1"):
        made(columns=PAIR, label={**SCORE, "similar": 7})


def test_a_threshold_moves_what_is_decided_and_nothing_that_is_read() -> None:
    outputs = torch.tensor([-2.0, math.log(0.25) - 1e-6, math.log(0.25) + 1e-6, 0.0, 2.0])  # a fifth: 1 to 4
    plain, wary = (made(columns=["text"], label={"kind": "binary", "threshold": at}) for at in (0.5, 0.2))
    assert plain == made(columns=["text"], label={"kind": "binary"})
    assert KINDS["binary"].prediction(outputs, plain.label).tolist() == [0, 0, 0, 0, 1]
    assert KINDS["binary"].prediction(outputs, wary.label).tolist() == [0, 0, 1, 1, 1]
    assert output_of(plain.label).label == "1 where it is above 0"
    assert output_of(wary.label).label == "1 where it is above -1.38629436"
    assert plain.facts() == wary.facts(), "the same tokens"


word = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)


@st.composite
def several(draw: st.DrawFn) -> dict[str, Any]:
    words = draw(st.lists(word, min_size=2, max_size=6, unique=True))
    some = st.floats(0, 1, exclude_min=True, exclude_max=True)
    threshold = draw(st.one_of(st.none(), some, st.dictionaries(st.sampled_from(words), some)))
    return {"kind": "multilabel", "words": words, "threshold": threshold}


labels = st.one_of(
    several(),
    st.fixed_dictionaries({"words": st.lists(word, min_size=2, max_size=6, unique=True)}),
    st.fixed_dictionaries({"kind": st.just("classes"), "low": st.integers(-3, 3), "high": st.integers(4, 9)}),
    st.fixed_dictionaries({"kind": st.just("score"), "low": st.floats(-5, 0), "high": st.floats(0.1, 9)}),
    st.sampled_from([{"kind": "binary"}, {"kind": "binary", "words": ["1", "0"]}, {"kind": "probability"}]),
    st.fixed_dictionaries(
        {"kind": st.just("binary"), "threshold": st.floats(0, 1, exclude_min=True, exclude_max=True)}
    ),
)


@given(labels, st.booleans(), st.booleans(), st.data())
def test_a_definition_and_its_spec_say_the_same(label: Any, pair: bool, joined: bool, data: st.DataObject) -> None:
    if pair and not joined and label.get("kind") != "multilabel":
        spec = made(columns=PAIR, label=label)
        low, high = int(spec.label.low), int(spec.label.high)
        values = [spec.label.says(value) for value in range(low, high + 1)]
        similar = data.draw(st.sampled_from(values))
        label = {**label, "similar": similar if "words" in label else float(similar)}
    spec = made(columns=PAIR if pair else ["text"], label=label, joined=pair and joined)
    found = json.loads(json.dumps(definitions({"mine": spec, "sst": TASKS["sst"]})))
    assert list(found) == ["mine"]
    assert known(found, "here") == TASKS | {"mine": spec}
    assert definition_of(known(found, "here")["mine"]) == definition_of(spec)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (["mine"], "no mapping"),
        ({"mine": {"columns": ["a"]}}, "mine: |kind: missing"),
        ({"mine": 5}, "mine"),
        ({"mine": {"columns": ["a"], "label": {"words": ["a", "b"]}, "code": "x"}}, r"mine\.code"),
        ({"../mine": {"columns": ["a"], "label": {"words": ["a", "b"]}}}, "names files"),
        ({"sst": {"columns": ["a"], "label": {"words": ["a", "b"]}}}, "'sst' is taken"),
    ],
)
def test_what_a_bundle_says_of_its_tasks_is_checked_as_a_recipe_is(found: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        known(found, "bundle 'x'")
    assert str(caught.value).startswith("bundle 'x': ")


# Words of the task, a value of the file -> its class, or what is said of it.
READ: list[tuple[list[Any], str, float | str]] = [
    (WORDS, "neutral", 1),
    (WORDS, " positive ", 2),
    (WORDS, "2", 2),
    (WORDS, "2.0", 2),
    (WORDS, "Neutral", "label is none of negative, neutral, positive: 'Neutral'"),
    (WORDS, "3", "label is none of negative, neutral, positive: '3'"),
    (WORDS, "-1", "label is none of"),
    (WORDS, "nan", "label is none of"),
    (WORDS, "inf", "label is none of"),
    (WORDS, "", "label is missing"),
    ([1, 2, 3], "1", 0),
    ([1, 2, 3], "3.0", 2),
    ([1, 2, 3], "0", "label is none of 1, 2, 3: '0'"),
    (["no", "yes"], "yes", 1),
]


@pytest.mark.parametrize(("words", "value", "expected"), READ)
def test_words_are_read(tmp_path: Path, words: list[Any], value: str, expected: float | str) -> None:
    spec = made(columns=["text"], label={"words": words})
    (tmp_path / "a.csv").write_text(f"text,label\nsome text,{value}\n")
    result = read_examples(str(tmp_path / "a.csv"), spec, labelled=True, max_bad_rows=1.0)
    if isinstance(expected, str):
        assert result.quarantined[0].reason.startswith(expected)
    else:
        assert result.examples[0].label == expected


def test_numbers_and_truth_values_of_json_are_read(tmp_path: Path) -> None:
    spec = made(columns=["text"], label={"words": ["false", "true"]})
    rows = [{"text": "a", "label": value} for value in (True, False, "true", 1, 0.0, None)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = read_examples(str(tmp_path / "a.jsonl"), spec, labelled=True, max_bad_rows=1.0)
    assert [example.label for example in result.examples] == [1, 0, 1, 1, 0]
    assert [row.line for row in result.quarantined] == [6]


BUILT_IN = """
name: built-in
encoder: tiny
tasks: {sst: {head: mlp}, quora: {loss: bce, columns: {sentence1: a}}, sts: {}, suitability: {}}
stages: [{name: a, tasks: [sst, quora], train: full-model, lr: 1.0e-3}]
"""


def fingerprint(recipe: Recipe) -> str:
    stage = recipe.stages[0]
    data = {task: {"train": "train", "dev": "dev"} for task in recipe.tasks}
    content = stage_content(recipe, stage, recipe.heads(stage), data, "parent", recipe.seed)
    return digest(json.loads(json.dumps(content)))


def test_a_definition_is_content_and_a_default_written_out_is_none() -> None:
    before = fingerprint(build())
    for same in (f"{DEFINE}.metric=accuracy", f"{DEFINE}.label.kind=classes", "tasks.tone.head=linear"):
        assert fingerprint(build(same)) == before, same
    binary = f"{DEFINE}.label={{column: tone, kind: binary}}"
    assert fingerprint(build(binary)) == fingerprint(build(binary, f"{DEFINE}.label.threshold=0.5"))
    assert fingerprint(build(binary)) != fingerprint(build(binary, f"{DEFINE}.label.threshold=0.3"))
    for other in (f"{DEFINE}.label.words=[neutral, negative, positive]", f"{DEFINE}.label.column=mood"):
        assert fingerprint(build(other)) != before, other


def test_fingerprints_of_the_built_in_tasks_are_those_of_before_there_were_own_ones() -> None:
    recipe = build_recipe(parse_yaml(BUILT_IN, "test"), "test")
    assert fingerprint(recipe) == "e46c24ad98e5e8d7d85b710dd41a3321e502b9a76624a62d52ddc52f2e5a77a0"
