"""Tokenizers of model folders: AutoTokenizer's ids on odd texts, or one line; and never other bytes than were there."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from multitask.data.special import special_ids, special_tokens
from multitask.errors import UserError
from multitask.model.tokenizer_files import parse_tokenizer, read_tokenizer, token_count, words_of
from multitask.model.tokenizer_settings import model_max_length
from tests.tokenizer_folders import CASED, EQUAL, FAST, PLAIN, REFUSED, TEXTS, WORDS, Files, N, settings, tokenizer_json

REASON = "parity needs transformers 5.23 (a test-only dependency)"


def ids_of(tokenizer: Tokenizer) -> list[list[int]]:
    """Each text's, then each pair's."""
    single = [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]
    return single + [encoding.ids for encoding in tokenizer.encode_batch(list(pairwise(TEXTS)))]


@pytest.mark.parametrize("name", EQUAL)
def test_ids_are_autotokenizers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason=REASON)
    ours = read_tokenizer(Files(EQUAL[name]).make(tmp_path))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    wanted = [theirs(text)["input_ids"] for text in TEXTS] + theirs(TEXTS[:-1], TEXTS[1:])["input_ids"]
    assert ids_of(ours) == wanted
    assert ids_of(Tokenizer.from_str(ours.to_str())) == wanted  # as a bundle keeps it
    assert {n: t.content for n, t in ours.get_added_tokens_decoder().items() if t.special} == {
        n: t.content for n, t in theirs.added_tokens_decoder.items() if t.special
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_equal_is_refused(name: str, tmp_path: Path) -> None:
    files, line = REFUSED[name]
    with pytest.raises(UserError) as refused:
        read_tokenizer(Files(files).make(tmp_path))
    assert line in str(refused.value) and str(tmp_path) in str(refused.value)


def test_the_texts_tell_the_folders_apart(tmp_path: Path) -> None:
    """Else the parity above would say little: by most folders some text has other ids."""
    found = set()
    for number, files in enumerate(EQUAL.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.add(json.dumps(ids_of(read_tokenizer(Files(files).make(folder)))))
    assert len(found) > 15


@pytest.mark.parametrize("key", ["", "do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_a_plain_vocabulary_gives_the_bytes_that_it_gave(key: str, tmp_path: Path) -> None:
    """Fingerprints and cached tokens hang on them: those of `tokenizers`' own BertWordPieceTokenizer."""
    values = {key: False} if key else {}
    made = BertWordPieceTokenizer(
        {word: index for index, word in enumerate(WORDS)},
        lowercase=values.get("do_lower_case", True),
        strip_accents=values.get("strip_accents"),
        handle_chinese_chars=values.get("tokenize_chinese_chars", True),
    )
    assert read_tokenizer(Files(settings(**values)).make(tmp_path)).to_str() == made.to_str()


@pytest.mark.parametrize("values", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}])
def test_what_save_pretrained_writes_is_taken_as_it_is(
    values: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers = pytest.importorskip("transformers", reason=REASON)
    folder = Files(settings(**values)).make(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    theirs.add_tokens(["new_tok"])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]"]})
    theirs.save_pretrained(tmp_path)
    written = (tmp_path / "tokenizer.json").read_bytes()
    assert read_tokenizer(folder).to_str() == parse_tokenizer(written, "").to_str()
    assert not caplog.records


def test_a_tokenizer_json_that_does_not_hold_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": CASED}
    with caplog.at_level(logging.WARNING):
        read_tokenizer(Files(files).make(tmp_path))
    (record,) = caplog.records
    assert (
        "tokenizer.json: its normalizer is not what BertTokenizer makes of tokenizer_config.json" in record.getMessage()
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (settings(padding_side="left"), "padding_side is left"),
        (
            {
                "tokenizer.json": tokenizer_json().replace('"pair":[', '"pair":[],"p":['),
                "tokenizer_config.json": FAST,
            },
            "puts no token between two texts",
        ),
    ],
)
def test_what_another_program_would_do_otherwise_is_said(
    files: dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_tokenizer(Files(files).make(tmp_path))
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("cased", [True, False])
def test_sentence_transformers_own_lower_case_comes_first(cased: bool, tmp_path: Path) -> None:
    """Whether or not the vocabulary knows the letter A, and only once where BERT's own is there."""
    files = {**settings(do_lower_case=not cased), "sentence_bert_config.json": {"do_lower_case": True}}
    tokenizer = read_tokenizer(Files(files).make(tmp_path))
    assert tokenizer.encode("The CAT").ids == tokenizer.encode("the cat").ids
    assert ("Sequence" in tokenizer.to_str()) is cased


def test_vocab_txt_is_read_by_line_feeds_alone() -> None:
    assert words_of("[UNK]\n\u2028\nb\x85c\nd\u2029e \r\n\nthe\nthe\n".encode(), "") == {
        "[UNK]": 0, "\u2028": 1, "b\x85c": 2, "d\u2029e": 3, "": 4, "the": 6,
    }  # fmt: skip


def test_numbers_that_no_text_is_given_need_no_embedding(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(Files({"vocab.txt": PLAIN + "\n"}).make(tmp_path))
    assert tokenizer.get_vocab_size() == N + 1 and token_count(tokenizer) == N


def test_special_tokens_have_many_names(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(Files(EQUAL["XLMRobertaTokenizerFast"]).make(tmp_path))
    assert special_tokens(tokenizer) == {
        "pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>",
    }  # fmt: skip
    assert special_ids(tokenizer) == {0, 1, 2, 3, 12}


def test_a_word_is_not_special_by_its_looks(tmp_path: Path) -> None:
    assert special_ids(read_tokenizer(Files({"vocab.txt": PLAIN + "<mask>\n"}).make(tmp_path))) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ({}, None),
        ({"model_max_length": 10**30}, None),
        ({"model_max_length": 1e30}, None),
        ({"model_max_length": 128}, 128),
        ({"max_len": 64}, 64),
        ({"model_max_length": None, "max_len": 64}, None),
    ],
)
def test_the_length_that_a_tokenizer_sets(values: dict[str, Any], length: int | None, tmp_path: Path) -> None:
    assert model_max_length(Files(settings(**values)).make(tmp_path)) == length


@pytest.mark.parametrize("length", [0, -1, "512", 512.0, True])
def test_a_length_that_is_none_is_refused(length: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_max_length is .*; valid: a whole number of tokens from 1"):
        model_max_length(Files(settings(model_max_length=length)).make(tmp_path))
