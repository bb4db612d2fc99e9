"""Folders that hold a tokenizer as people have them, and texts that tell tokenizers apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *SPECIAL, "[unused1]", "the", "a", "cat", "Cat", "##s", "sat", "été", "ete", "Été", "i", "ı", "İ", "istanbul",
    "中", "国", "中国", "人", "😀", "hello", "##ing", "new", "##c", "[", "]", "<", ">", "-", "_", "!", ",", "e", "##1",
    "s", "/", "mask", "cls", "E", "1", "z", "##w",
]  # fmt: skip
N = len(WORDS)
NUMBERED = {word: index for index, word in enumerate(WORDS)}
TEXTS = [
    "the cat",
    "The Cat SAT, hello-ing!",
    "été Été E\u0301te\u0301 ete",
    "中国人 the中cat中国",
    "a\u2028the\u2029cat\x85sat",
    "the\u200bcat z\u200dw",
    "\x00the\x07 cat\ufffd sat\x7f",
    "😀 cat😀👩\u200d👩\u200d👧",
    "İstanbul ISTANBUL ı I i",
    "cat" * 50,
    "unknownish the qqq",
    "[E1] the",
    "x[E1]y [e1] [ E1 ] the[E1]",
    "[CLS] cat [SEP] [MASK] [PAD] [UNK]",
    "<s> the </s> <mask>",
    "new_tok the newtok NEW_TOK",
    "  the   cat  ",
    "",
    " ",
    "\x00",
    "\t\r\n",
    "[cls] [mask]cat[MASK]",
    "[unused1] the",
    "ß ẞ Σίσυφος ΣΊΣΥΦΟΣ ﬁ ½",
    "thecat cats",
    "the\u3000cat\xa0sat",
]


@dataclass(frozen=True)
class Files:
    """A folder's files by name; `make` writes them, config.json first, and is a Folder to read them from."""

    files: Mapping[str, Any]
    uri: str = "model"

    def at(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def find(self, name: str) -> bytes | None:
        path = Path(self.uri, name)
        return path.read_bytes() if path.is_file() else None

    def find_json(self, name: str) -> dict[str, Any] | None:
        data = self.find(name)
        return None if data is None else dict(json.loads(data))

    def make(self, folder: Path) -> Files:
        for name, content in {"config.json": {"model_type": "bert"}, **self.files}.items():
            text = content if isinstance(content, str | bytes) else json.dumps(content)
            folder.joinpath(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Files(self.files, str(folder))


def vocabulary(*more: str, without: str = "", end: str = "\n") -> str:
    return "".join(f"{word}{end}" for word in [*WORDS, *more] if word != without)


def token(content: str, **flags: bool) -> dict[str, Any]:
    every = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, **every, **flags}


def tokenizer_json(
    lower: bool = True,
    frame: bool = True,
    change: Callable[[Tokenizer], object] = lambda tokenizer: None,
    model: models.Model | None = None,
) -> str:
    """BERT's, as the library `tokenizers` writes it."""
    made = Tokenizer(model or models.WordPiece(NUMBERED, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if frame:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    made.add_special_tokens(SPECIAL)
    change(made)
    return str(made.to_str())


def padded_and_cut(tokenizer: Tokenizer) -> None:
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(4)


def roberta_json() -> str:
    """As XLMRobertaTokenizer of transformers writes it: a BERT of many languages often has it."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁", "▁c", "a", "t", "▁cat", "s", "中", "<mask>"]
    made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ends = [("<s>", 0), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)])
    return str(made.to_str())


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
CASED = {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
PLAIN = vocabulary()


def settings(**values: Any) -> dict[str, Any]:
    return {"vocab.txt": PLAIN, "tokenizer_config.json": values}


# Those give AutoTokenizer's ids.
EQUAL: dict[str, dict[str, Any]] = {
    "vocab.txt alone": {"vocab.txt": PLAIN},
    "vocab.txt, cased": settings(do_lower_case=False),
    "vocab.txt, lower case with accents": settings(strip_accents=False),
    "vocab.txt, cased without accents": settings(do_lower_case=False, strip_accents=True),
    "vocab.txt, Chinese in words": settings(tokenize_chinese_chars=False),
    "vocab.txt with CRLF": {"vocab.txt": vocabulary(end="\r\n")},
    "vocab.txt without a last line feed": {"vocab.txt": PLAIN.removesuffix("\n")},
    "vocab.txt with U+2028": {"vocab.txt": PLAIN.replace("the\n", "\u2028\nthe\n")},
    "vocab.txt with a carriage return in a token": {"vocab.txt": PLAIN.replace("the\n", "x\ry\nthe\n")},
    "vocab.txt with spaces at the end of a line": {"vocab.txt": PLAIN.replace("the\n", "the \u3000\n")},
    "vocab.txt with empty lines": {"vocab.txt": PLAIN.replace("the\n", "\nthe\n") + "\n"},
    "vocab.txt with a repeated line": {"vocab.txt": PLAIN.replace("cat\n", "cat\nthe\n")},
    "vocab.txt without [MASK], which is added": {"vocab.txt": vocabulary(without="[MASK]")},
    "vocab.txt whose [MASK] is none": {
        "vocab.txt": vocabulary(without="[MASK]"),
        "tokenizer_config.json": {"mask_token": None},
    },
    "added_tokens.json": {"vocab.txt": PLAIN, "added_tokens.json": {"[E1]": N, "new_tok": N + 1}},
    "added_tokens.json, special by special_tokens_map.json": {
        "vocab.txt": PLAIN,
        "added_tokens.json": {"new_tok": N, "[E1]": N + 1},
        "special_tokens_map.json": {"additional_special_tokens": ["[E1]"], "cls_token": "[CLS]"},
    },
    "added_tokens_decoder": settings(
        added_tokens_decoder={str(N): token("[E1]"), str(N + 1): token("new_tok", special=False, normalized=True)}
    ),
    "added_tokens_decoder of a single word with space": settings(
        added_tokens_decoder={str(N): token("[E1]", single_word=True, lstrip=True)}
    ),
    "added tokens that the vocabulary has": settings(additional_special_tokens=["[unused1]"]),
    "special_tokens_map.json with flags": {
        "vocab.txt": PLAIN,
        "special_tokens_map.json": {"mask_token": token("[MASK]", lstrip=True, normalized=True)},
    },
    "special tokens by other names": {
        "vocab.txt": vocabulary("<s>", "</s>", "<unk>", "<pad>", "<mask>"),
        "tokenizer_config.json": {
            "cls_token": "<s>",
            "sep_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
    },
    "tokenizer.json alone": {"tokenizer.json": tokenizer_json()},
    "tokenizer.json, cased, that nothing else says": {"tokenizer.json": tokenizer_json(lower=False)},
    "tokenizer.json, cased, as it is": {"tokenizer.json": tokenizer_json(lower=False), "tokenizer_config.json": FAST},
    "tokenizer.json in lower case, do_lower_case false": {
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": CASED,
    },
    "tokenizer.json without a frame, which BertTokenizer has": {"tokenizer.json": tokenizer_json(frame=False)},
    "tokenizer.json of short words": {
        "tokenizer.json": tokenizer_json(
            model=models.WordPiece(NUMBERED, unk_token="[UNK]", max_input_chars_per_word=3)
        ),
    },
    "tokenizer.json of words, as it is": {
        "tokenizer.json": tokenizer_json(model=models.WordLevel(NUMBERED, unk_token="[UNK]")),
        "tokenizer_config.json": FAST,
    },
    "tokenizer.json with added tokens": {
        "tokenizer.json": tokenizer_json(change=lambda made: made.add_tokens(["new_tok", "[E1]"]))
    },
    "tokenizer.json with tokens that tokenizer_config.json adds": {
        "tokenizer.json": tokenizer_json(),
        "tokenizer_config.json": {**FAST, "extra_special_tokens": ["[E1]"], "pad_token": "[PAD]"},
    },
    "tokenizer.json used with padding and truncation": {
        "tokenizer.json": tokenizer_json(change=lambda made: padded_and_cut(made)),
    },
    "tokenizer.json beside another vocab.txt": {"tokenizer.json": tokenizer_json(), "vocab.txt": "[UNK]\nthe\n"},
    "the class in config.json": {
        "config.json": {"model_type": "bert", **FAST},
        "tokenizer.json": tokenizer_json(lower=False),
    },
    "DistilBertTokenizerFast": settings(tokenizer_class="DistilBertTokenizerFast", do_lower_case=False),
    "ElectraTokenizer": settings(tokenizer_class="ElectraTokenizer"),
    "XLMRobertaTokenizerFast": {
        "tokenizer.json": roberta_json(),
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizerFast"},
    },
    "no length": settings(model_max_length=10**30),
}

# Those are refused: the folder's files, and what the line says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no tokenizer": ({}, "no tokenizer; valid: a tokenizer.json or a vocab.txt beside config.json"),
    "no [UNK]": ({"vocab.txt": vocabulary(without="[UNK]")}, "lacks its unknown token, '[UNK]'"),
    "not UTF-8": ({"vocab.txt": PLAIN.encode("utf-16")}, "vocab.txt: not a BERT vocabulary"),
    "a byte order mark": ({"vocab.txt": "\ufeff" + PLAIN}, "vocab.txt: begins with a byte order mark"),
    "two lines that white space tells apart": (
        {"vocab.txt": vocabulary("the ")},
        f"line {N + 1}, 'the ', is 'the' again",
    ),
    "a repeated line before added tokens": (
        {"vocab.txt": PLAIN.replace("cat\n", "cat\nthe\n"), "added_tokens.json": {"[E1]": N}},
        "are both token",
    ),
    "added tokens with a gap": (
        settings(added_tokens_decoder={str(N + 7): token("[E1]")}),
        f"'[E1]' is token {N + 7}, to transformers token {N}",
    ),
    "added tokens with no number": (
        {"vocab.txt": PLAIN, "added_tokens.json": {"[E1]": "last"}},
        "an added token's number is 'last'",
    ),
    "an added token of no form": (settings(added_tokens_decoder={str(N): "[E1]"}), "not an added token: '[E1]'"),
    "tokenizer.json with a gap": (
        {
            "tokenizer.json": tokenizer_json(change=lambda made: made.add_tokens(["new_tok"])).replace(
                f'"id":{N}', f'"id":{N + 3}'
            ),
            "tokenizer_config.json": FAST,
        },
        f"'new_tok' is token {N + 3}, to transformers token {N}",
    ),
    "do_lower_case in quotes": (settings(do_lower_case="false"), "do_lower_case is 'false'; valid: true, false"),
    "do_lower_case null": (settings(do_lower_case=None), "do_lower_case is None; valid: true, false"),
    "cls_token null": (settings(cls_token=None), "cls_token is null"),
    "a token in no form": (settings(cls_token={"content": "[CLS]"}), "cls_token holds {'content': '[CLS]'}"),
    "cut on the left": (settings(truncation_side="left"), "truncation_side is 'left'; valid: right"),
    "cut on the left when last used": (
        {"tokenizer.json": tokenizer_json(change=lambda made: made.enable_truncation(4, direction="left"))},
        "truncation_side is 'left'",
    ),
    "special tokens in texts split": (
        settings(split_special_tokens=True),
        "split_special_tokens is True; valid: false",
    ),
    "code of its own": (settings(auto_map={"AutoTokenizer": ["own.Tokenizer", None]}), "auto_map is"),
    "BertJapaneseTokenizer": (
        settings(tokenizer_class="BertJapaneseTokenizer"),
        "tokenizer_class is 'BertJapaneseTokenizer'; valid: BertTokenizer, ",
    ),
    "a class without its tokenizer.json": (
        settings(**FAST),
        "no tokenizer.json, which tokenizer_class PreTrainedTokenizerFast wants",
    ),
    "XLMRobertaTokenizer of SentencePiece's file": (
        settings(tokenizer_class="XLMRobertaTokenizer"),
        "no tokenizer; valid: a tokenizer.json beside",
    ),
    "BertTokenizer of another model": (
        {
            "tokenizer.json": tokenizer_json(
                model=models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]")
            )
        },
        "its model is WordLevel, tokenizer_class BertTokenizer takes WordPiece",
    ),
    "no frame": (
        {"tokenizer.json": tokenizer_json(frame=False), "tokenizer_config.json": FAST},
        "puts no token around a text",
    ),
    "no [UNK] in tokenizer.json": (
        {
            "tokenizer.json": tokenizer_json(model=models.WordPiece({"the": 0}, unk_token="[UNK]"), frame=False),
            "tokenizer_config.json": FAST,
        },
        "lacks its unknown token",
    ),
    "sentence-transformers with another tokenizer": (
        {"vocab.txt": PLAIN, "sentence_bert_config.json": {"tokenizer_name_or_path": "someone/else"}},
        "tokenizer_name_or_path is 'someone/else'",
    ),
}
