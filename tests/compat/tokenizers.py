"""Tokenizers of model folders: their files as transformers of many years wrote them, and as people edit them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multitask.model.tokenizer_files import read_tokenizer
from tests.compat.table import Row
from tests.tokenizer_folders import (
    CASED,
    EQUAL,
    PLAIN,
    REFUSED,
    Files,
    N,
    settings,
    token,
    tokenizer_json,
    vocabulary,
)  # fmt: skip

Run = Callable[[Path], None]


def _gives(text: str, tokens: str, files: Mapping[str, Any]) -> Run:
    """The folder's tokenizer makes those tokens of the text, [CLS] and [SEP] left out."""

    def run(folder: Path) -> None:
        found = read_tokenizer(Files(files).make(folder)).encode(text)
        assert found.tokens[1:-1] == tokens.split(" "), found.tokens

    return run


def _numbers(text: str, ids: Sequence[int], files: Mapping[str, Any]) -> Run:
    def run(folder: Path) -> None:
        found = read_tokenizer(Files(files).make(folder)).encode(text).ids
        assert found == [2, *ids, 3], found

    return run


def _refused(name: str) -> Run:
    def run(folder: Path) -> None:
        read_tokenizer(Files(REFUSED[name][0]).make(folder))

    return run


DIFFERS = (
    "tokenizer.json: its ... is not what BertTokenizer makes of tokenizer_config.json; the latter holds, as in "
    'transformers; "tokenizer_class": "PreTrainedTokenizerFast" there takes the former as it is'
)
READ: Sequence[Row] = (
    Row("vocab.txt alone", "read", _gives("The Été", "the ete", EQUAL["vocab.txt alone"])),
    Row(
        "vocab.txt with do_lower_case false",
        "read",
        _gives("Cat Été the", "Cat Été the", EQUAL["vocab.txt, cased"]),
    ),
    Row(
        "vocab.txt with tokenize_chinese_chars false",
        "read",
        _gives("中国 中人", "中国 [UNK]", settings(tokenize_chinese_chars=False)),
    ),
    Row(
        "vocab.txt with a token that is U+2028 (bert-base-chinese)",
        "read",
        _numbers("the", [7], {"vocab.txt": PLAIN.replace("the\n", "\u2028\nthe\n")}),
    ),
    Row("vocab.txt with CRLF", "read", _gives("cats", "cat ##s", EQUAL["vocab.txt with CRLF"])),
    Row(
        "vocab.txt with empty lines, and one at its end",
        "read",
        _numbers("the", [7], EQUAL["vocab.txt with empty lines"]),
    ),
    Row(
        "vocab.txt with a repeated line: the last one's number",
        "read",
        _numbers("the", [9], EQUAL["vocab.txt with a repeated line"]),
    ),
    Row("added_tokens.json", "read", _numbers("x[E1]", [1, N], {"vocab.txt": PLAIN, "added_tokens.json": {"[E1]": N}})),
    Row(
        "added_tokens_decoder in tokenizer_config.json",
        "read",
        _numbers("[E1]the", [N, 6], settings(added_tokens_decoder={str(N): token("[E1]")})),
    ),
    Row(
        "special_tokens_map.json with other names, `<s>` for `[CLS]`",
        "read",
        _gives(
            "<s>the",
            "<s> the",
            {"vocab.txt": vocabulary("<s>"), "special_tokens_map.json": {"cls_token": "<s>"}},
        ),
    ),
    Row(
        "tokenizer.json that keeps case, PreTrainedTokenizerFast",
        "read",
        _gives("The Cat", "[UNK] Cat", EQUAL["tokenizer.json, cased, as it is"]),
    ),
    Row(
        "tokenizer.json that was last used with truncation and padding",
        "read",
        _gives("the the the the the", "the the the the the", EQUAL["tokenizer.json used with padding and truncation"]),
    ),
    Row(
        "XLM-R's tokenizer in a BERT (paraphrase-multilingual-MiniLM)",
        "read",
        _gives("the cats", "▁the ▁cat s", EQUAL["XLMRobertaTokenizerFast"]),
    ),
    Row(
        "tokenizer.json in lower case, do_lower_case false beside it",
        "noted",
        _gives("the Cat", "the Cat", {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": CASED}),
        DIFFERS,
    ),
    Row(
        "tokenizer.json that keeps case, without tokenizer_config.json",
        "noted",
        _gives("the Cat", "the cat", {"tokenizer.json": tokenizer_json(lower=False)}),
        DIFFERS,
    ),
    Row(
        "tokenizer.json without a frame, of BertTokenizer",
        "noted",
        _numbers("the", [6], {"tokenizer.json": tokenizer_json(frame=False)}),
        DIFFERS,
    ),
    Row(
        "padding_side left",
        "noted",
        _gives("the", "the", settings(padding_side="left")),
        "padding_side is left; here texts are padded on the right, and begin at position 0",
    ),
)
LINES: Mapping[str, tuple[str, str]] = {
    "a folder without a tokenizer, where AutoTokenizer makes up one of five tokens": (
        "no tokenizer",
        "no tokenizer; valid: a tokenizer.json or a vocab.txt beside config.json",
    ),
    "vocab.txt without [UNK]": (
        "no [UNK]",
        "vocab.txt: its vocabulary lacks its unknown token, '[UNK]'; valid: a vocabulary with [UNK]",
    ),
    "vocab.txt in another encoding": (
        "not UTF-8",
        "vocab.txt: not a BERT vocabulary: ...; valid: UTF-8, a token a line",
    ),
    "vocab.txt with a byte order mark": (
        "a byte order mark",
        "vocab.txt: begins with a byte order mark; valid: none, it would be part of the first token",
    ),
    "added tokens whose numbers leave a gap, which transformers closes": (
        "added tokens with a gap",
        "'[E1]' is token ..., to transformers token ...; valid: an added token's own number in the vocabulary, or "
        "those that follow it, none left out",
    ),
    "a tokenizer of PreTrainedTokenizerFast that frames no text": (
        "no frame",
        "puts no token around a text, and an empty text has none; valid: [CLS] ... [SEP]",
    ),
    "truncation_side left": ("cut on the left", "tokenizer_config.json: truncation_side is 'left'; valid: right, null"),
    "do_lower_case in quotes": ("do_lower_case in quotes", "do_lower_case is 'false'; valid: true, false"),
    "BertJapaneseTokenizer (MeCab), and other classes": (
        "BertJapaneseTokenizer",
        "tokenizer_class is 'BertJapaneseTokenizer'; valid: ..., or PreTrainedTokenizerFast, which takes "
        "tokenizer.json as it is",
    ),
    "code of its own (auto_map)": ("code of its own", "tokenizer_config.json: auto_map is ...; valid: null"),
    "XLM-R's tokenizer as SentencePiece's file alone": (
        "XLMRobertaTokenizer of SentencePiece's file",
        "no tokenizer; valid: a tokenizer.json beside config.json",
    ),
}
ROWS: Sequence[Row] = (
    *READ,
    *(Row(have, "refused", _refused(name), line) for have, (name, line) in LINES.items()),
)
