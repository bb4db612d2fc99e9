"""What a model's folder is, by what sentence-transformers wrote beside the transformer: where each part lies, and what
becomes of the transformer's states. A module that minibert cannot do is refused here, by its name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multitask.errors import UserError
from multitask.model.encoding import POOLINGS
from multitask.model.folders import Folder, parse_json

log = logging.getLogger(__name__)

MODULES, SETTINGS, TRANSFORMER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
ADAPTER = "adapter_config.json"
UNLISTED_POOLING = "1_Pooling"  # where pooling lies in a folder that lost its list of modules
PACKAGE = "sentence_transformers."
# The types of modules that can follow each other, but for Dropout, which does nothing to an embedding. A list may leave
# Normalize out: what we embed is of length 1 in any case.
READABLE = (
    ("Transformer", "Pooling"),
    ("Transformer", "Pooling", "Normalize"),
    ("Transformer", "Pooling", "Dense"),
    ("Transformer", "Pooling", "Dense", "Normalize"),
)
VALID = "Transformer, Pooling, for BERT's pooler Dense, Normalize or not"
PATH = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
# Pooling's modes in its config of before version 6: a key each.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODES = tuple(name for name in POOLINGS if name != "pooler")
# Settings that change what comes out -> the values with which it stays what we compute; None where a file says nothing.
TRANSFORMER_KEYS: dict[str, tuple[object, ...]] = {
    "transformer_task": (None, "feature-extraction"),
    "module_output_name": (None, "token_embeddings"),
    "modality_config": (None, {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}),
    "processing_kwargs": (None, {}),
    "query_expansion": (None,),
}
NAMES_KEYS: dict[str, tuple[object, ...]] = {
    "module_input_name": (None, "sentence_embedding"),
    "module_output_name": (None, "sentence_embedding"),
    "use_residual": (None, False),
}
# Arguments for transformers' loaders, under their names before version 6 and after; those that change no number.
ARGUMENTS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")
HARMLESS = {"attn_implementation", "torch_dtype", "dtype", "low_cpu_mem_usage", "trust_remote_code", "use_safetensors"}
HARMLESS |= {"add_pooling_layer", "use_fast", "revision", "device_map"}


@dataclass(frozen=True)
class Layout:
    """Where the parts of a model's folder lie, and how its transformer's states are used.

    transformer: the folder of config.json, weights and tokenizer. pooling: a key of POOLINGS; None where the folder
    says nothing of it. dense: the folder of BERT's own pooler, which sentence-transformers writes as a Dense over the
    first token. max_length: tokens of a text, None where nobody says. prompt: what is put before each text there, which
    we do not do.
    """

    transformer: Folder
    pooling: str | None
    dense: Folder | None
    max_length: int | None
    prompt: str


def layout_of(folder: Folder) -> Layout:
    """The layout of a model's folder. Raises UserError, naming the file, for what this program cannot do as
    sentence-transformers does it."""
    if folder.has(ADAPTER):
        raise UserError(
            f"{folder.at(ADAPTER)}: a PEFT adapter; valid: a whole model; merge_and_unload() of peft, then "
            f"save_pretrained, makes one"
        )
    settings = folder.find_json(SETTINGS) or {}
    kind, listed = settings.get("model_type", "SentenceTransformer"), _listed(folder)
    transformer = folder.below(listed[0][1]) if listed else folder
    if kind == "CrossEncoder" or not listed:
        pooling = _pooling_of(folder.below(UNLISTED_POOLING)) if kind != "CrossEncoder" else None
        return Layout(transformer, pooling, None, _max_length(transformer), "")
    if kind != "SentenceTransformer":
        raise UserError(f"{folder.at(SETTINGS)}: a {kind}; valid: a SentenceTransformer, or a CrossEncoder's encoder")
    if (width := settings.get("truncate_dim")) is not None:
        raise UserError(
            f"{folder.at(SETTINGS)}: truncate_dim is {width}: embeddings are cut to so many numbers, which minibert "
            f"does not; valid: null, which leaves them whole"
        )
    places = _places(folder, listed)
    asked = transformer.find_json(TRANSFORMER) or {}
    _check_keys(transformer.at(TRANSFORMER), asked, TRANSFORMER_KEYS)
    _check_arguments(transformer.at(TRANSFORMER), asked)
    return Layout(
        transformer,
        _pooling_of(places["Pooling"], listed=True),
        places.get("Dense"),
        _max_length(transformer),
        _prompt(folder, settings),
    )


def module_paths(folder: Folder) -> list[str]:
    """The folders that the list of modules names, the root among them where there is no list."""
    return [path for _, path in _listed(folder)] or [""]


def _listed(folder: Folder) -> list[tuple[str, str]]:
    """(type, path) of each module that the folder lists; none where it has no list."""
    data = folder.find(MODULES)
    modules = parse_json(data, folder.at(MODULES), list) if data is not None else []
    found = [
        (str(module.get("type")), _path(module.get("path"))) if isinstance(module, dict) else ("None", "")
        for module in modules
    ]
    if data is not None and not found:
        raise UserError(f"{folder.at(MODULES)}: lists no module; valid: {VALID}")
    if wrong := [path for _, path in found if path and not PATH.fullmatch(path)]:
        raise UserError(f"{folder.at(MODULES)}: a module in {wrong[0]!r}; valid: a folder below it")
    return found


def _path(said: object) -> str:
    """A module's path as sentence-transformers takes it: "", "." and nothing are the folder itself."""
    path = str(said or "").rstrip("/")
    return "" if path == "." else path.removeprefix("./")


def _places(folder: Folder, listed: list[tuple[str, str]]) -> dict[str, Folder]:
    """The type of each of the folder's modules -> its own folder. Raises UserError for a list of modules that is not
    READABLE."""
    layers = [(_short(kind), path) for kind, path in listed]
    kept = [(kind, path) for kind, path in layers if kind != "Dropout"]
    if tuple(kind for kind, _ in kept) not in READABLE:
        said = ", ".join(f"{kind} in '{path}'" if path else kind for kind, path in layers)
        raise UserError(f"{folder.at(MODULES)}: {said}; valid: {VALID}")
    places = {kind: folder.below(path) for kind, path in kept}
    for kind in ("Dense", "Normalize"):
        if kind in places:
            where = places[kind]
            _check_keys(where.at("config.json"), where.find_json("config.json") or {}, NAMES_KEYS)
    return places


def _short(kind: str) -> str:
    """The class of a module in an error: its bare name where it is of sentence-transformers, else with its package."""
    return kind.rpartition(".")[2] if kind.startswith(PACKAGE) else kind


def _check_keys(where: str, values: Mapping[str, Any], known: Mapping[str, tuple[object, ...]]) -> None:
    for key, allowed in known.items():
        if (value := values.get(key)) not in allowed:
            raise UserError(f"{where}: {key} is {value!r}; valid: {' or '.join(map(repr, allowed[1:])) or 'null'}")


def _check_arguments(where: str, values: Mapping[str, Any]) -> None:
    for key in ARGUMENTS:
        given = values.get(key) or {}
        if other := sorted(set(given) - HARMLESS if isinstance(given, dict) else [str(given)]):
            raise UserError(f"{where}: {key} has {other[0]}, which minibert does not follow; valid: without it")


def _pooling_of(folder: Folder, listed: bool = False) -> str | None:
    """The mode that Pooling's config names, in its old form or its new; None for a Pooling whose config is not there.
    Raises UserError for several modes at once, which make a wider embedding."""
    values = folder.find_json("config.json")
    if values is None:
        if listed:
            folder.read("config.json")  # says what is there instead
        return None
    said = values.get("pooling_mode") or [mode for key, mode in POOLING_KEYS.items() if values.get(key)] or "mean"
    modes = [str(mode) for mode in said] if isinstance(said, list) else [str(said)]
    if len(modes) != 1 or modes[0] not in MODES:
        raise UserError(
            f"{folder.at('config.json')}: its pooling is {' and '.join(modes)}, not one of: {', '.join(MODES)}"
        )
    return modes[0]


def _max_length(transformer: Folder) -> int | None:
    """The most tokens of a text, by sentence-transformers' files or else by transformers'; a value that cannot be one
    is passed over."""
    for name, key in ((TRANSFORMER, "max_seq_length"), (TOKENIZER, "model_max_length")):
        length = (transformer.find_json(name) or {}).get(key)
        if isinstance(length, int | float) and type(length) is not bool and length >= 1:
            return int(min(length, 2**31))
    return None


def _prompt(folder: Folder, settings: Mapping[str, Any]) -> str:
    """The prompt that sentence-transformers puts before each text unless it is told otherwise, with a note that this
    program does not."""
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = str(prompts[name]) if isinstance(prompts, dict) and isinstance(name, str) and name in prompts else ""
    if prompt:
        log.warning(
            "%s: sentence-transformers puts '%s' before each text; minibert does not: write it there",
            folder.at(SETTINGS),
            prompt,
        )
    return prompt
