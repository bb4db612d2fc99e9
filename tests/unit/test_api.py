"""The Python API and what is below it: answers as evaluate's, shapes, errors of one line, examples that run."""

from __future__ import annotations

import doctest
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import multitask.api
from multitask import load_bundle
from multitask.api import Model
from multitask.bundle.bundle import Bundle, bundle_of, save_bundle
from multitask.data.files import find_file
from multitask.data.sample import sample_uri
from multitask.data.shards import read_examples
from multitask.data.tokens import cache_tokens, load_tokens
from multitask.errors import UserError
from multitask.inference.embed import TextEncoder
from multitask.inference.predict import BLOCK, Predictor
from multitask.measure.evaluate import EvalSet, predictions
from multitask.storage.storage import Storage
from multitask.tasks.table import TASKS
from tests.helpers import tiny

HEADS = {"sst": "mlp", "quora": "interaction", "sts": "cosine"}
ROOT = Path(__file__).resolve().parents[2]


def bundle_with(heads: dict[str, str], **about: object) -> Bundle:
    return bundle_of(tiny().model(heads, seed=3), tiny().tokenizer_json, {"max_length": 24, **about})


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(bundle_with({**HEADS, "suitability": "mlp"}), "cpu")


@pytest.mark.parametrize(
    ("task", "head"),
    [("sst", "mlp"), ("sst", "bilstm"), ("cfimdb", "linear"), ("quora", "interaction"), ("sts", "cosine"),
     ("sts", "mlp"), ("jobs", "linear")],
)  # fmt: skip
def test_labels_are_those_of_evaluate(tmp_path: Path, task: str, head: str) -> None:
    # jobs has no sample file: it reads sts's, whose columns are its own
    spec, bundle = TASKS[task], bundle_with({task: head})
    uri = find_file(sample_uri(), TASKS["sts" if task == "jobs" else task], "dev")
    path = cache_tokens(Storage(str(tmp_path)), uri, spec, bundle.tokenizer, labelled=False, max_length=24)
    data = EvalSet.of(task, load_tokens(Storage(str(tmp_path)), path), "cpu")
    expected = predictions(bundle.model(), data, device=torch.device("cpu")).labels.numpy()
    texts = zip(*(example.texts for example in read_examples(uri, spec, labelled=False).examples), strict=True)
    found = Predictor(bundle).predict(task, *texts)
    assert found.dtype == np.float64 and found.shape == (150,)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_joined_pairs_are_predicted_as_by_evaluate(tmp_path: Path) -> None:
    bundle = bundle_with({"suitability": "interaction"})
    rows = [(f"a good film about {at}", "the worst of all " * (at % 9 + 1)) for at in range(60)]
    file = tmp_path / "pairs.tsv"
    file.write_text("job\tapplication\n" + "".join(f"{job}\t{application}\n" for job, application in rows))
    spec, storage = TASKS["suitability"], Storage(str(tmp_path))
    path = cache_tokens(storage, str(file), spec, bundle.tokenizer, labelled=False, max_length=24)
    data = EvalSet.of("suitability", load_tokens(storage, path), "cpu")
    expected = predictions(bundle.model(), data, device=torch.device("cpu")).labels.numpy()
    found = Predictor(bundle).answer("suitability", *zip(*rows, strict=True))
    np.testing.assert_allclose(found.labels, expected, atol=1e-6)
    np.testing.assert_allclose(found.labels, found.probabilities, atol=1e-6)


def test_more_pairs_than_a_block_and_repeated_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, seen = Predictor(bundle_with(HEADS)), []
    first, second = [f"a film {at % 7}" for at in range(50)], [f"music {at % 5}" for at in range(50)]
    whole = predictor.predict("sts", first, second)
    encode = predictor.sentences
    monkeypatch.setattr(predictor, "sentences", lambda texts, **how: seen.append(len(texts)) or encode(texts, **how))
    monkeypatch.setattr("multitask.inference.predict.BLOCK", 20)
    done: list[int] = []
    np.testing.assert_allclose(predictor.predict("sts", first, second, done.append), whole, atol=1e-6)
    assert BLOCK > 50 and done == [20, 40, 50]
    assert seen == [12, 12, 12]  # distinct sentences of a block


def test_probabilities_are_of_the_labels(model: Model) -> None:
    texts = ["a good film", "the worst of all", "music", "a guitar " * 20]
    found = model.sentiment(texts)
    assert found.labels.dtype == np.int64 and found.probabilities.shape == (4, 5)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(found.labels, found.probabilities.argmax(axis=1))
    np.testing.assert_array_equal(found.labels, model.predict("sst", texts))
    pairs = model.paraphrase(texts, texts[::-1])
    np.testing.assert_array_equal(pairs.labels, pairs.probabilities > 0.5)
    np.testing.assert_array_equal(pairs.probabilities, model.probabilities("quora", texts, texts[::-1]))


def test_embeddings_are_the_encoders_and_similarity_is_their_cosine(model: Model) -> None:
    first, second = ["a good film", "music", "the worst"], ["a film", "a guitar", "the worst"]
    np.testing.assert_array_equal(model.embed(first), TextEncoder(model.bundle).embed(first))
    cosine = (model.embed(first) * model.embed(second)).sum(axis=1)
    np.testing.assert_allclose(model.similarity(first, second), 5 * np.maximum(cosine, 0), atol=1e-5)


@settings(max_examples=20)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=8))
def test_any_texts_are_answered_one_by_one_as_together(texts: list[str]) -> None:
    model = Model(bundle_with(HEADS), "cpu")
    together = model.embed(iter(texts))
    assert together.shape == (len(texts), 64) and np.isfinite(together).all()
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_allclose(model.embed(text)[0], vector, atol=1e-5)


def test_no_texts_give_empty_arrays(model: Model) -> None:
    assert model.embed([]).shape == (0, 64)
    assert model.sentiment([]).labels.shape == (0,) and model.sentiment([]).probabilities.shape == (0, 5)
    assert model.paraphrase([], []).labels.shape == model.similarity([], []).shape == (0,)
    assert model.predict("suitability", [], []).shape == (0,)


def test_another_head_stands_in_and_untrained_ones_do_not() -> None:
    assert Model(bundle_with({"cfimdb": "linear"})).sentiment("bad").probabilities.shape == (1, 2)
    bundle = bundle_with({**HEADS, "cfimdb": "linear"}, trained=["cfimdb"])
    assert bundle.answers == ["sts", "cfimdb"]  # a cosine has nothing to train
    assert Model(bundle).sentiment("bad").probabilities.shape == (1, 2)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda m: m.embed(["a", 1.5]), r"texts\[1\]: 1.5 is float, not text"),
        (lambda m: m.embed(None), "texts: None is neither a text nor a list of texts"),
        (lambda m: m.sentiment([b"a"]), r"first\[0\]: b'a' is bytes, not text"),
        (lambda m: m.embed(["\ud800"]), r"texts\[0\]: .* lone surrogate"),
        (lambda m: m.similarity(["a", "b"], "c"), "task sts: 2 first texts and 1 second ones"),
        (lambda m: m.predict("sst", "a", "b"), "task sst: takes sentence, 1 texts an example"),
        (lambda m: m.predict("quora", "a"), "task quora: takes sentence1 and sentence2, 2 texts an example"),
        (lambda m: m.predict("cfimdb", "a"), "no trained head for task cfimdb, it has those of sst, quora, sts, suit"),
        (lambda m: m.predict("nothing", "a"), "no trained head for task nothing"),
        (lambda m: m.probabilities("sts", "a", "b"), "task sts: its label is a score, which has no probability"),
        (lambda m: Model(tiny()).paraphrase("a", "b"), "bundle tiny: no trained head for task quora, it has none"),
        (lambda m: Model(tiny()).similarity("a", "b"), "no trained head for task sts.*dot product .* is their cosine"),
        (lambda m: load_bundle("tiny", "cuda:99"), "device 'cuda:99': not on this machine, which has cpu"),
        (lambda m: load_bundle("tiny", "abacus"), "device 'abacus': not on this machine"),
        (lambda m: load_bundle("nowhere/at/all"), "encoder 'nowhere/at/all': no such directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said_in_a_line(model: Model, asked: Callable[[Model], object], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        asked(model)
    assert "\n" not in str(caught.value)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bundle(Storage(str(tmp_path)), "bundle", bundle_with(HEADS))
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder().find(multitask.api)
    globals_: dict[str, object] = {}
    for example in sorted(found, key=lambda test: test.lineno or 0):  # the class's own makes `model`
        example.globs = globals_
        assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    assert sum(len(example.examples) for example in found) >= 10


def test_importing_the_package_imports_no_torch_and_its_types_are_shipped() -> None:
    code = "import sys, multitask; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["multitask"]
    assert "py.typed" in shipped and (ROOT / "multitask" / "py.typed").is_file()


def test_what_is_no_bundle_is_told_in_one_line_without_what_raised_it() -> None:
    with pytest.raises(UserError) as caught:
        load_bundle("./nowhere/at-all")
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
