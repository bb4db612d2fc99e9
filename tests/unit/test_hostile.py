"""Bundles and encoders from elsewhere that mean harm, or are broken: one line, and nothing is built of them."""

from __future__ import annotations

import json
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from multitask.bundle.bundle import read_bundle, save_bundle
from multitask.errors import UserError
from multitask.experiment.checkpoints import CheckpointStore
from multitask.model.sources import load_source
from multitask.storage.sealed import Damaged, read_sealed, write_sealed
from multitask.storage.storage import MANIFEST, Storage
from tests.helpers import tiny

WEIGHTS, FACTS, TOKENIZER = "weights.safetensors", "model.json", "tokenizer.json"
Files = dict[str, bytes]


class Touch:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def claiming(shape: list[int], length: int | None = None) -> bytes:
    """A safetensors file of four bytes whose header claims a tensor of that shape, or a header of that length."""
    header = json.dumps({"encoder.x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", length or len(header)) + header + b"\0\0\0\0"


def facts(files: Files, **changed: Any) -> None:
    said = json.loads(files[FACTS])
    files[FACTS] = json.dumps({**said, **changed}).encode()


def config(files: Files, **changed: Any) -> None:
    facts(files, config={**json.loads(files[FACTS])["config"], **changed})


def weights(files: Files, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = dict(tiny().tensors)
    change(tensors)
    files[WEIGHTS] = save(tensors)


def vocabulary(files: Files, number: int) -> None:
    tokenizer = json.loads(files[TOKENIZER])
    tokenizer["model"]["vocab"]["wicked"] = number
    files[TOKENIZER] = json.dumps(tokenizer).encode()


WORD = "encoder.embeddings.word_embeddings.weight"
# What is done to a sound bundle's files -> what the one line says.
HOSTILE: dict[str, tuple[Callable[[Files], Any], str]] = {
    "a pickle for weights": (
        lambda f: f.update({WEIGHTS: pickle.dumps(Touch(Path("touched")))}),
        "damaged: Safetensor",
    ),
    "a pickle of torch's": (lambda f: f.update({WEIGHTS: b"PK\3\4" + b"\0" * 100}), "damaged: SafetensorError"),
    "an empty file": (lambda f: f.update({WEIGHTS: b""}), "damaged: SafetensorError"),
    "a truncated one": (lambda f: f.update({WEIGHTS: f[WEIGHTS][: len(f[WEIGHTS]) // 2]}), "damaged: SafetensorError"),
    "a huge tensor": (lambda f: f.update({WEIGHTS: claiming([10**9, 10**9])}), "damaged: SafetensorError"),
    "a huge header": (lambda f: f.update({WEIGHTS: claiming([1], 2**60)}), "damaged: SafetensorError"),
    "whole numbers": (lambda f: weights(f, lambda t: t.update({WORD: t[WORD].long()})), "holds torch.int64; valid"),
    "truth values": (lambda f: weights(f, lambda t: t.update({WORD: t[WORD] > 0})), "holds torch.bool; valid"),
    "no number": (lambda f: weights(f, lambda t: t.update({WORD: t[WORD] * float("nan")})), "not finite"),
    "a tensor is missing": (lambda f: weights(f, lambda t: t.pop(WORD)), f"{WORD} is absent, by its config ("),
    "one too many": (lambda f: weights(f, lambda t: t.update({"encoder.x": t[WORD].clone()})), "by its config absent"),
    "another shape": (lambda f: weights(f, lambda t: t.update({WORD: t[WORD][:7]})), f"{WORD} is (7, 64), by its"),
    "a config of a billion": (lambda f: config(f, hidden_size=10**9), "hidden_size is 1000000000; valid: at most"),
    "a million layers": (lambda f: config(f, num_hidden_layers=10**6), "num_hidden_layers is 1000000; valid: at"),
    "more than there is": (lambda f: config(f, num_hidden_layers=200, intermediate_size=60000), "by its config ("),
    "a config of lists": (lambda f: config(f, vocab_size=[1]), "vocab_size is [1]; valid: a positive whole number"),
    "another architecture": (lambda f: config(f, model_type="roberta"), "model_type is 'roberta'; valid: 'bert'"),
    "no config": (lambda f: facts(f, config=None), "model.json: config: Input should be"),
    "no such pooling": (
        lambda f: facts(f, pooling="__class__"),
        "model.json: pooling: Input should be 'pooler', 'cls'",
    ),
    "no such task": (lambda f: facts(f, heads={"../../x": "linear"}), "a head for task '../../x', which it does not"),
    "no such head": (lambda f: facts(f, heads={"sst": "__import__"}), "head '__import__' is unknown"),
    "a head that cannot": (lambda f: facts(f, heads={"sst": "cosine"}), "head 'cosine' cannot serve task 'sst'"),
    "heads of another form": (lambda f: facts(f, heads=[["sst", "linear"]]), "model.json: heads: Input should be"),
    "a length of text": (lambda f: facts(f, about={"max_length": "512"}), "about.max_length: Input should be a valid"),
    "a length below one": (lambda f: facts(f, about={"max_length": 0}), "about.max_length: Input should be greater"),
    "columns of another form": (lambda f: facts(f, about={"columns": {"sst": 3}}), "about.columns.sst: Input should"),
    "a task that cannot be": (lambda f: facts(f, specs={"../x": {"columns": ["a"]}}), "'../x' names files"),
    "a list for facts": (lambda f: f.update({FACTS: b"[]"}), "schema missing; this version reads 1"),
    "deep nesting": (lambda f: f.update({FACTS: b"[" * 10**6}), "damaged: RecursionError"),
    "a number of a million digits": (lambda f: f.update({FACTS: b"1" * 10**6}), "damaged: Exceeds the limit"),
    "no text": (lambda f: f.update({FACTS: b"\xff\xfe{"}), "damaged: "),
    "no tokenizer": (lambda f: f.update({TOKENIZER: b"{}"}), "not a tokenizer"),
    "a tokenizer that knows no unknown token": (
        lambda f: f.update({TOKENIZER: f[TOKENIZER].replace(b"[UNK]", b"[UNX]", 1).replace(b'"[UNK]":', b'"[UNX]":')}),
        "its vocabulary lacks its unknown token, '[UNK]'",
    ),
    "a tokenizer in no encoding": (lambda f: f.update({TOKENIZER: b"\xff"}), "damaged: UnicodeDecodeError"),
    "a deep tokenizer": (lambda f: f.update({TOKENIZER: b'{"a":' * 10**5}), "not a tokenizer"),
    "a token beyond the embeddings": (lambda f: vocabulary(f, 10**6), "a token of number 1000000; valid: below"),
    "no weights": (lambda f: f.pop(WEIGHTS), "damaged: KeyError"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Files:
    storage = Storage(str(tmp_path_factory.mktemp("sound")))
    save_bundle(storage, "", tiny())
    return read_sealed(storage)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_line(
    what: str, sound: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage, files = Storage(str(tmp_path / "bundle")), dict(sound)
    change, said = HOSTILE[what]
    change(files)
    write_sealed(storage, "", files, {"schema": 1})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        read_bundle(storage)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"
    assert not Path("touched").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floats_are_taken(sound: Files, tmp_path: Path, dtype: torch.dtype) -> None:
    files = dict(sound)
    files[WEIGHTS] = save({name: value.to(dtype) for name, value in tiny().tensors.items()})
    write_sealed(Storage(str(tmp_path)), "", files, {"schema": 1})
    assert {value.dtype for value in read_bundle(Storage(str(tmp_path))).tensors.values()} == {torch.float32}


def test_a_file_larger_than_its_manifest_says_is_not_read(sound: Files, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_sealed(storage, "", sound, {"schema": 1})
    with open(tmp_path / WEIGHTS, "wb") as file:
        file.truncate(2**40)  # sparse: to read it would take more memory than there is
    with pytest.raises(Damaged, match="1099511627776 bytes do not match"):
        read_sealed(storage)


def test_a_manifest_that_is_a_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(Damaged, match="no file"):
        read_sealed(Storage(str(tmp_path)))


# The same for a Hugging Face directory: its files -> what is said.
FOLDERS: dict[str, tuple[dict[str, bytes], str]] = {
    "a pickle": ({"model.safetensors": pickle.dumps(Touch(Path("touched")))}, "not a sound safetensors file"),
    "a billion": ({"config.json": b'{"vocab_size": 10, "hidden_size": 1000000000, "num_hidden_layers": 1, '
                   b'"num_attention_heads": 1, "intermediate_size": 1}'}, "hidden_size is 1000000000; valid: at most"),
    "deep": ({"config.json": b"[" * 10**6}, "config.json: not JSON"),
    "no mapping": ({"config.json": b"[]"}, "holds a list; valid: a JSON object"),
    "a deep tokenizer": ({"tokenizer.json": b'{"a":' * 10**5}, "not a tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOLDERS)
def test_a_hostile_encoder_is_refused_in_one_line(
    what: str, sound: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = {name.removeprefix("encoder."): value for name, value in tiny().tensors.items()}
    files = {
        "config.json": json.dumps(tiny().config.to_dict()).encode(),
        "model.safetensors": save({name: value for name, value in encoder.items() if not name.startswith("heads")}),
        "tokenizer.json": sound[TOKENIZER],
        **FOLDERS[what][0],
    }
    for name, data in files.items():
        Storage(str(tmp_path / "encoder")).write_bytes(name, data)
    with pytest.raises(UserError) as caught:
        load_source(str(tmp_path / "encoder"))
    assert FOLDERS[what][1] in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("touched").exists()


@pytest.mark.parametrize("content", [b"[]", b"{}", b"[" * 10**6, b'{"position": {"epoch": 1, "wicked": 2}}', b"\xff"])
def test_a_checkpoint_that_is_sealed_but_none_is_passed_over(content: bytes, tmp_path: Path) -> None:
    folder = Storage(str(tmp_path / "TorchTrainer_1" / "checkpoints"))
    names = ("weights.safetensors", "optimizer.safetensors", "extra.safetensors")
    files = {"state.json": content, **{name: save({}) for name in names}}
    write_sealed(folder, "step-00000001", files, {"schema": 1}, of="TorchTrainer_1")
    with CheckpointStore(folder) as store:
        assert store.newest() is None
        with pytest.raises(Damaged, match="step-00000001: "):
            store.at(1)
