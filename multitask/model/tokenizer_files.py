"""A model folder's tokenizer: it gives the ids that transformers' AutoTokenizer gives, or it is refused.

transformers (5.23) goes by the class that tokenizer_config.json names, else by config.json's, else by BertTokenizer. A
class builds its tokenizer from the vocabulary and the settings of tokenizer_config.json, whatever the rest of
tokenizer.json says; only PreTrainedTokenizerFast takes tokenizer.json as it is. Then the tokens are added that files
number themselves, and special ones that the vocabulary lacks.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer, normalizers

from multitask.errors import UserError
from multitask.model.tokenizer_classes import AS_IT_IS, CLASSES, Token
from multitask.model.tokenizer_settings import (
    ADDED,
    NAMED,
    SENTENCES,
    SETTINGS,
    SPECIAL_MAP,
    TOKENIZER,
    VOCABULARY,
    Folder,
    Said,
    read_settings,
)

log = logging.getLogger(__name__)

FILES = (TOKENIZER, SETTINGS, VOCABULARY, SPECIAL_MAP, ADDED)  # where a folder keeps its tokenizer
# What Rust's trim_end takes off a line of vocab.txt, with which transformers reads it.
BLANK = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class _Kept:
    """A folder of which no file is fetched again; a tokenizer may have 20 MB and lie far away."""

    def __init__(self, folder: Folder) -> None:
        self.uri, self.at = folder.uri, folder.at
        self.find, self.find_json = cache(folder.find), cache(folder.find_json)


def read_tokenizer(folder: Folder) -> Tokenizer:
    """The tokenizer of a model's folder, without truncation and padding: tokenizer.json as it is where it gives
    AutoTokenizer's ids, else one that is built to.

    Raises UserError where there is no tokenizer, or none that gives AutoTokenizer's ids.
    """
    folder = _Kept(folder)
    data = folder.find(TOKENIZER)
    file = None if data is None else parse_tokenizer(data, folder.at(TOKENIZER))
    said = read_settings(folder)
    name = _class_of(folder, said)
    made = _as_it_is(folder, said) if name in AS_IT_IS else _built(folder, said, name)
    if (folder.find_json(SENTENCES) or {}).get("do_lower_case"):  # sentence-transformers' own, before all else
        _lower(made, file)
    _check(made, said, folder.at(VOCABULARY if file is None else TOKENIZER))
    differing = [] if file is None else _differing(file, made)
    if name not in AS_IT_IS and differing and differing != ["added_tokens"]:
        log.warning(
            '%s: its %s is not what %s makes of %s; the latter holds, as in transformers; "tokenizer_class": '
            '"PreTrainedTokenizerFast" there takes the former as it is',
            *(folder.at(TOKENIZER), " and ".join(differing), name, SETTINGS),
        )
    _note_use(made, said)
    return made if file is None or differing else file


def parse_tokenizer(data: bytes, where: str) -> Tokenizer:
    """The tokenizer that a tokenizer.json's text describes, without truncation and padding. Raises UserError, naming
    `where`."""
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{where}: not a tokenizer: {error}; valid: a tokenizers JSON file") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_count(tokenizer: Tokenizer) -> int:
    """A bound below which every id lies that a text can be given. No text is given the id of an empty line of
    vocab.txt."""
    return max((index for token, index in tokenizer.get_vocab().items() if token), default=-1) + 1


def words_of(data: bytes, where: str) -> dict[str, int]:
    """vocab.txt's words and their lines' numbers, a repeated word's last; only a line feed ends a line.

    Raises UserError for what is not UTF-8, and where white space that transformers takes off makes two words one.
    """
    try:
        lines = data.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not a BERT vocabulary: {error}; valid: UTF-8, a token a line") from error
    if lines[0].startswith("\ufeff"):
        raise UserError(f"{where}: begins with a byte order mark; valid: none, it would be part of the first token")
    lines = [line.removesuffix("\r") for line in lines]
    words = [line.rstrip(BLANK) or line for line in lines]  # a line that is blank: a token that no text is given
    clear = set(lines)
    for number, (line, word) in enumerate(zip(lines, words, strict=True), 1):
        if word != line and word in clear:
            raise UserError(
                f"{where}: line {number}, {line!r}, is '{word}' again to transformers; valid: each token once"
            )
    return {word: index for index, word in enumerate(words)}


def _class_of(folder: Folder, said: Said) -> str:
    config = folder.find_json("config.json") or {}
    named = said.values.get("tokenizer_class") or config.get("tokenizer_class") or "BertTokenizer"
    name = str(named).removesuffix("Fast")
    if name not in CLASSES and name not in AS_IT_IS:
        raise UserError(
            f"{said.where}: tokenizer_class is {named!r}; valid: {', '.join(CLASSES)}, or PreTrainedTokenizerFast, "
            "which takes tokenizer.json as it is"
        )
    return name


def _as_it_is(folder: Folder, said: Said) -> Tokenizer:
    """The tokenizer of tokenizer.json, with the tokens that the files beside it add."""
    data = folder.find(TOKENIZER)
    if data is None:
        raise UserError(f"{folder.uri}: no {TOKENIZER}, which tokenizer_class PreTrainedTokenizerFast wants")
    made, raw = parse_tokenizer(data, folder.at(TOKENIZER)), folder.find_json(TOKENIZER) or {}
    padding = (raw.get("padding") or {}).get("pad_token")
    _add(made, said, _named(said, {"pad_token": padding} if padding else {}))
    _check_numbers(made, {token["id"]: token["content"] for token in raw.get("added_tokens", ())}, folder.at(TOKENIZER))
    return made


def _built(folder: Folder, said: Said, name: str) -> Tokenizer:
    """The tokenizer that one of transformers' classes makes of the vocabulary, in tokenizer.json or vocab.txt, and of
    the settings."""
    kind, file, data = CLASSES[name], folder.find_json(TOKENIZER), folder.find(VOCABULARY)
    if file is None:
        if data is None or kind.model != "WordPiece":
            takes = " or a vocab.txt" if kind.model == "WordPiece" else ""
            raise UserError(f"{folder.uri}: no tokenizer; valid: a tokenizer.json{takes} beside config.json")
        file = {"model": {"type": kind.model, "vocab": words_of(data, folder.at(VOCABULARY))}}
    if (model := file["model"].get("type", kind.model)) != kind.model:
        raise UserError(
            f"{folder.at(TOKENIZER)}: its model is {model}, tokenizer_class {name} takes {kind.model}; valid: "
            f'"tokenizer_class": "PreTrainedTokenizerFast" in {SETTINGS}, for tokenizer.json as it is'
        )
    named = _named(said, kind.names)
    if lacking := next((key for key in ("unk_token", *kind.framing) if key not in named), None):
        raise UserError(f"{said.where}: {lacking} is null; valid: a token, as {name} needs one")
    made = kind.build(file, said, str(named["unk_token"].content))
    _add(made, said, named)
    first, last = (_numbered(made, str(named[key].content)) for key in kind.framing)
    made.post_processor = kind.frame(first, last)
    return made


def _numbered(tokenizer: Tokenizer, text: str) -> Token:
    number = tokenizer.token_to_id(text)
    assert number is not None, f"{text} was added"
    return text, number


def _named(said: Said, names: Mapping[str, str]) -> dict[str, AddedToken]:
    """The special tokens in transformers' order. names: the tokens that hold where no file says another one, or
    none."""
    defaults = {key: AddedToken(name, special=True) for key, name in names.items()}
    found = {key: said.named.get(key, defaults.get(key)) for key in (*NAMED, *said.named)}
    return {key: token for key, token in found.items() if token is not None}


def _add(tokenizer: Tokenizer, said: Said, named: Mapping[str, AddedToken]) -> None:
    """Adds the tokens that files number, then the special tokens that are not there yet; they are numbered in this
    order."""
    numbered = [token for _, token in sorted(said.declared.items())]
    there = {token.content for token in [*tokenizer.get_added_tokens_decoder().values(), *numbered]}
    others = [token for token in (*named.values(), *said.extra) if token.content not in there]
    special = {token.content for token in named.values()}
    for token in numbered:
        token.special = token.special or token.content in special
    tokenizer.add_tokens([*numbered, *others])


def _lower(*tokenizers: Tokenizer | None) -> None:
    for tokenizer in tokenizers:
        if tokenizer and not (tokenizer.normalizer and tokenizer.normalizer.normalize_str("A") == "a"):
            before = [tokenizer.normalizer] if tokenizer.normalizer else []
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])


def _check(tokenizer: Tokenizer, said: Said, where: str) -> None:
    """Raises UserError unless every token has a number of its own and every text has tokens."""
    check_unknown(tokenizer, where)
    _check_numbers(tokenizer, {number: token.content for number, token in said.declared.items()}, said.numbers_where)
    twice = [number for number, times in Counter(tokenizer.get_vocab().values()).items() if times > 1]
    if twice:
        both = " and ".join(f"'{token}'" for token, number in tokenizer.get_vocab().items() if number == twice[0])
        raise UserError(f"{where}: {both} are both token {twice[0]}; valid: a number for each, none left out")
    if not tokenizer.encode("").ids:
        raise UserError(f"{where}: puts no token around a text, and an empty text has none; valid: [CLS] ... [SEP]")


def _check_numbers(tokenizer: Tokenizer, said: Mapping[int, str], where: str) -> None:
    for number, content in sorted(said.items()):
        found = tokenizer.token_to_id(content)
        if found != number:
            raise UserError(
                f"{where}: '{content}' is token {number}, to transformers token {found}; valid: an added token's own "
                "number in the vocabulary, or those that follow it, none left out"
            )


def check_unknown(tokenizer: Tokenizer, where: str) -> None:
    """Raises UserError where the tokenizer would fail at a text that holds what it does not know."""
    model = json.loads(tokenizer.to_str())["model"]
    name = model.get("unk_token")
    whole = model["type"] in ("WordPiece", "WordLevel")  # of the others, BPE leaves out what it does not know
    if (name not in model["vocab"]) if whole else (model["type"] == "Unigram" and model["unk_id"] is None):
        raise UserError(f"{where}: its vocabulary lacks its unknown token, {name!r}; valid: a vocabulary with [UNK]")


def _note_use(tokenizer: Tokenizer, said: Said) -> None:
    """Says what another program would make of the settings and this one does not."""
    if said.values["padding_side"] == "left":
        log.warning("%s: padding_side is left; here texts are padded on the right, and begin at position 0", said.where)
    if len(tokenizer.encode("", "").ids) <= len(tokenizer.encode("").ids):
        log.warning("%s: puts no token between two texts; a task that joins its texts has no border there", said.where)


def _differing(one: Tokenizer, other: Tokenizer) -> list[str]:
    """The parts by which two tokenizers may give other ids."""
    encoding = other.encode("a", add_special_tokens=False)
    first, second = (_parts(tokenizer, encoding) for tokenizer in (one, other))
    return [part for part in first if first[part] != second[part]]


def _parts(tokenizer: Tokenizer, encoding: Encoding) -> dict[str, Any]:
    """Parts of tokenizer.json, written one way; what it puts around a text, by the ids."""
    parts = json.loads(tokenizer.to_str())
    normalizer = parts["normalizer"]
    if normalizer and normalizer.get("strip_accents", False) is None:  # then they go with upper case
        normalizer["strip_accents"] = normalizer["lowercase"]
    framed = tokenizer.post_process(encoding).ids, tokenizer.post_process(encoding, encoding).ids
    return {key: parts[key] for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")} | {"frame": framed}
