"""The packaged sample data and the tiny tokenizer: both come out of their generators, byte for byte."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from multitask.data.files import find_file
from multitask.data.sample import GENERATORS, ROWS, generate, sample_files, sample_uri
from multitask.data.shards import read_examples
from multitask.data.tiny_tokenizer import SPECIAL, train_tokenizer
from multitask.tasks.table import TASKS

ASSETS = Path(sample_uri()).parent


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / "tiny" / "tokenizer.json"))


def test_the_packaged_files_are_the_generated_ones() -> None:
    generated = sample_files()
    assert generated.keys() == {path.name for path in Path(sample_uri()).iterdir()}
    for name, content in generated.items():
        assert (Path(sample_uri()) / name).read_bytes() == content, f"{name}: python -m multitask.data.sample"


def test_the_tiny_tokenizer_joins_texts_as_bert_does(tokenizer: Tokenizer) -> None:
    found = tokenizer.encode("a film", "good")
    assert [found.tokens[at] for at in (0, 3, -1)] == ["[CLS]", "[SEP]", "[SEP]"]
    assert found.type_ids == [0] * 4 + [1] * (len(found.tokens) - 4) and 1 in found.type_ids


def test_packaged_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*.*")) < 1_000_000


@pytest.mark.parametrize("task", GENERATORS)
def test_the_sample_is_clean_and_its_splits_do_not_overlap(task: str) -> None:
    spec = TASKS[task]
    seen: set[tuple[str, ...]] = set()
    for split, size in ROWS.items():
        result = read_examples(find_file(sample_uri(), spec, split), spec, labelled=split != "test")
        assert result.quarantined == ()
        assert len(result.examples) == len({example.id for example in result.examples}) == size
        assert all(len(example.id) == 25 and int(example.id, 16) >= 0 for example in result.examples)
        assert seen.isdisjoint(example.texts for example in result.examples)
        seen.update(example.texts for example in result.examples)


@pytest.mark.parametrize(("task", "majority"), [("sst", 0.3), ("cfimdb", 0.56), ("quora", 0.56)])
def test_labels_are_balanced(task: str, majority: float) -> None:
    for split in ("train", "dev"):
        labels = Counter(row[-1] for row in generate(task)[split])
        assert max(labels.values()) / labels.total() < majority


def test_similarities_cover_the_range() -> None:
    scores = [float(row[-1]) for row in generate("sts")["dev"]]
    assert min(scores) == 0.0
    assert max(scores) == 5.0
    assert len(set(scores)) > 20


def test_the_packaged_tokenizer_is_the_trained_one(tokenizer: Tokenizer) -> None:
    assert json.loads(train_tokenizer().to_str()) == json.loads(tokenizer.to_str())


def test_the_tokenizer_s_vocabulary(tokenizer: Tokenizer) -> None:
    assert 1900 <= tokenizer.get_vocab_size() <= 2000
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))


def test_other_english_text_is_not_unknown(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode("Éléphants jump 42 times; quick-brown foxes (zwölf) don't! #@%&~^|`\\")
    assert encoded.tokens[0] == "[CLS]"
    assert encoded.tokens[-1] == "[SEP]"
    assert "[UNK]" not in encoded.tokens
