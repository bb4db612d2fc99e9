"""The tokenizers that transformers' classes (5.23) build from a vocabulary and tokenizer_config.json's settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram, WordPiece

from multitask.data.special import BERT_NAMES, XLM_ROBERTA_NAMES
from multitask.model.tokenizer_settings import Said, check_values

BERT_SETTINGS: dict[str, tuple[object, ...]] = {
    "do_lower_case": (True, False),
    "strip_accents": (None, True, False),
    "tokenize_chinese_chars": (True, False),
}
Token = tuple[str, int]  # its text and its id


@dataclass(frozen=True)
class TokenizerClass:
    """One way to make a tokenizer.

    model: the type of tokenizer.json's model that it is made of. names: the special tokens where no file names them.
    build: (tokenizer.json's content, the settings, the unknown token) -> a tokenizer that frames nothing and knows no
    added tokens. frame: what it puts around a text; framing: the tokens that this needs.
    """

    model: str
    names: Mapping[str, str]
    build: Callable[[Mapping[str, Any], Said, str], Tokenizer]
    framing: tuple[str, str]
    frame: Callable[[Token, Token], Any]


def _bert(file: Mapping[str, Any], said: Said, unknown: str) -> Tokenizer:
    check_values(said.values, BERT_SETTINGS, said.where)
    tokenizer = Tokenizer(WordPiece(file["model"]["vocab"], unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=said.values.get("tokenize_chinese_chars", True),
        strip_accents=said.values.get("strip_accents"),
        lowercase=said.values.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _bert_frame(cls: Token, sep: Token) -> Any:
    return processors.BertProcessing(sep, cls)


def _xlm_roberta(file: Mapping[str, Any], said: Said, unknown: str) -> Tokenizer:
    check_values(said.values, {"add_prefix_space": (True, False)}, said.where)
    pieces = [(piece, score) for piece, score in file["model"]["vocab"]]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = _character_table(file.get("normalizer"))
    scheme = "always" if said.values.get("add_prefix_space", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return tokenizer


def _character_table(normalizer: Mapping[str, Any] | None) -> Any:
    """SentencePiece's own normalizer, where tokenizer.json's is that or has it among others; else None."""
    several = (normalizer or {}).get("normalizers", [normalizer])
    table = next((one for one in several if one and one.get("type") == "Precompiled"), None)
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}
    return Tokenizer.from_str(json.dumps({**empty, "normalizer": table})).normalizer


def _xlm_roberta_frame(bos: Token, eos: Token) -> Any:
    first, last = bos[0], eos[0]
    return processors.TemplateProcessing(
        single=[first, "$A", last], pair=[first, "$A", last, last, "$B", last], special_tokens=[bos, eos]
    )


BERT = TokenizerClass("WordPiece", BERT_NAMES, _bert, ("cls_token", "sep_token"), _bert_frame)
XLM_ROBERTA = TokenizerClass("Unigram", XLM_ROBERTA_NAMES, _xlm_roberta, ("bos_token", "eos_token"), _xlm_roberta_frame)
# By their names without the "Fast" that any of them may end with.
CLASSES = dict.fromkeys(
    ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "LayoutLMTokenizer", "MobileBertTokenizer"), BERT
) | {"XLMRobertaTokenizer": XLM_ROBERTA}
AS_IT_IS = ("PreTrainedTokenizer", "TokenizersBackend")  # those take tokenizer.json whole
