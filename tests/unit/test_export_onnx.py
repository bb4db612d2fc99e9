"""ONNX files give the bundle's numbers in onnxruntime, whatever the batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from multitask.bundle.bundle import Bundle, save_bundle
from multitask.errors import UserError
from multitask.experiment.finding import open_bundle
from multitask.export import onnx_files, rounding
from multitask.export.graphs import UnpackedBiLstm
from multitask.export.onnx_files import file_outputs
from multitask.inference.embed import TextEncoder
from multitask.model.encoding import Encoding
from multitask.storage.storage import Storage
from ray_jobs.bundles.scoring import opened, outputs_of
from ray_jobs.screen import Screen
from tests.conftest import ROOT
from tests.exports import HEADS, TEXTS, answers, bundle_with, embedded, exported

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SEGMENTED = {"skills": "linear"}
FEW = {"sst": "linear", "sts": "cosine", "moods": "linear"}


def run(folder: Path, name: str, *texts: Sequence[str]) -> NDArray[np.float32]:
    """As someone would who has the folder and its onnx.json, and nothing of ours. texts: columns."""
    said = json.loads((folder / "onnx.json").read_text())
    how = said["outputs"][name]
    tokenizer = Tokenizer.from_file(str(folder / said["tokenizer"]))
    tokenizer.enable_truncation(said["max_length"])
    tokenizer.enable_padding()
    columns: list[Any] = [list(zip(*texts, strict=True))] if how["joined"] else list(texts)
    tensors = []
    for column in columns:
        rows = tokenizer.encode_batch(list(column))
        facts = ["ids", "attention_mask", *(["type_ids"] if "token_type_ids" in how["inputs"] else [])]
        tensors += [np.array([getattr(row, fact) for row in rows]) for fact in facts]
    session = onnxruntime.InferenceSession(str(folder / how["file"]))
    found: NDArray[np.float32] = session.run([how["output"]], dict(zip(how["inputs"], tensors, strict=True)))[0]
    return found


def check(bundle: Bundle, folder: Path) -> None:
    assert not any(str(ROOT).encode() in file.read_bytes() for file in folder.glob("*.onnx")), "paths of this machine"
    assert np.abs(run(folder, "embedding", TEXTS) - embedded(bundle)).max() < 1e-4
    others = [*TEXTS[1:], TEXTS[0]]
    for task in bundle.heads:
        ours, columns = answers(bundle, task).numpy(), [TEXTS, others][: len(bundle.specs[task].columns)]
        assert np.abs(run(folder, task, *columns) - ours).max() < 1e-4, task
        for row in range(len(TEXTS)):  # a row alone, of its own length
            alone = run(folder, task, *([column[row]] for column in columns))
            assert np.abs(alone - ours[row : row + 1]).max() < 1e-4, (task, row)


def saved(folder: Path, bundle: Bundle) -> str:
    save_bundle(Storage(str(folder)), "", bundle)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_embedding_and_heads_are_ours(tmp_path: Path, pooling: str) -> None:
    bundle = bundle_with(FEW, pooling)
    folder = exported(saved(tmp_path / "bundle", bundle), "onnx", tmp_path / "out")
    names = {"README.md", "minibert.json", "onnx.json", "tokenizer.json", "weights.bin"}
    assert {file.name for file in folder.iterdir()} == names | {"embedding.onnx", "sst.onnx", "sts.onnx", "moods.onnx"}
    check(bundle, folder)
    encoder = 4 * sum(value.numel() for name, value in bundle.tensors.items() if name.startswith("encoder."))
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert sizes["weights.bin"] < 1.3 * encoder and sum(sizes.values()) < 2 * encoder, "the encoder is there once"


@pytest.mark.slow
def test_every_head_is_ours(tmp_path: Path) -> None:
    bundle = bundle_with({task: head for task, head in HEADS.items() if task not in SEGMENTED})
    check(bundle, exported(saved(tmp_path / "bundle", bundle), "onnx", tmp_path / "out"))


@pytest.mark.slow
def test_a_joined_pairs_segments_are_an_input_where_the_bundle_has_some(tmp_path: Path) -> None:
    bundle = bundle_with(SEGMENTED, "pooler")
    folder = exported(saved(tmp_path / "bundle", bundle), "onnx", tmp_path / "out")
    check(bundle, folder)
    facts = json.loads((folder / "onnx.json").read_text())["outputs"]
    assert facts["skills"]["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert facts["embedding"]["inputs"] == ["input_ids", "attention_mask"]


@pytest.mark.slow
def test_the_packaged_encoders_embedding_is_ours(minilm: Path, tmp_path: Path) -> None:
    folder = exported("minilm-l6", "onnx", tmp_path / "out")
    assert np.abs(run(folder, "embedding", TEXTS) - embedded(open_bundle("minilm-l6"))).max() < 1e-4


@pytest.mark.slow
def test_halves_are_the_rounded_bundles_own_numbers(tmp_path: Path) -> None:
    bundle = bundle_with({})
    uri = saved(tmp_path / "bundle", bundle)
    half = exported(uri, "onnx", tmp_path / "half", "float16")
    rounded = Bundle(**{**vars(bundle), "tensors": {n: t.half().float() for n, t in bundle.tensors.items()}})
    assert np.abs(run(half, "embedding", TEXTS) - embedded(rounded)).max() < 1e-4
    said = json.loads((half / "onnx.json").read_text())["outputs"]["embedding"]["largest_difference"]
    encoder = TextEncoder(bundle)
    apart = max(float(np.abs(run(half, "embedding", [text]) - encoder.embed([text])).max()) for text in rounding.TEXTS)
    assert said > 1e-5 and abs(said - apart) < 1e-6, "of the file as it is, against the float32 bundle"
    weights = sum(value.numel() for name, value in bundle.tensors.items() if name.startswith("encoder."))
    size = sum(file.stat().st_size for file in (half / "embedding.onnx", half / "weights.bin"))
    assert size < 2.3 * weights + 150_000  # the graph itself is the rest


@pytest.mark.slow
def test_int8_is_smaller_and_says_what_it_costs(tmp_path: Path) -> None:
    bundle = bundle_with({"sst": "linear", "sts": "cosine"})
    whole = exported(uri := saved(tmp_path / "bundle", bundle), "onnx", tmp_path / "whole")
    small = exported(uri, "onnx", tmp_path / "small", "int8")
    assert (small / "weights.bin").stat().st_size < 0.4 * (whole / "weights.bin").stat().st_size
    facts = json.loads((small / "onnx.json").read_text())
    measured = facts["outputs"]["sst"]["measured"]
    table = next(
        one.table for one in outputs_of(*opened(uri, None, ["dev"]), ["dev"], Screen(quiet=True), tasks=["sst"])
    )
    for folder, name in ((whole, "float32"), (small, "int8")):
        given = file_outputs(bundle, "sst", folder / "sst.onnx", table).argmax(dim=-1)
        assert measured[name] == pytest.approx(float((given == table.labels).double().mean()))
    assert measured["rows"] == len(table) and abs(measured["int8"] - measured["float32"]) < 0.1
    assert facts["weights"] == "int8" and 1e-4 < facts["outputs"]["embedding"]["largest_difference"] < 0.3


def test_int8_is_of_onnx_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dtype int8: --format transformers holds none; of onnx"):
        exported("tiny", "transformers", tmp_path / "out", "int8")


@pytest.mark.slow
def test_a_graph_that_differs_is_refused_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "TOLERANCE", 1e-12)
    with pytest.raises(UserError, match=r"embedding\.onnx: differs from the bundle by .*; at most 1e-12"):
        exported("tiny", "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        exported("tiny", "onnx", tmp_path / "out")
    assert caught.value.name == "onnxscript" and not list(tmp_path.iterdir())


def test_an_unpacked_lstm_reads_what_the_packed_one_reads() -> None:
    head: Any = bundle_with({"sst": "bilstm"}).model().heads["sst"]
    generator = torch.Generator().manual_seed(2)
    for rows, tokens in ((1, 1), (1, 9), (7, 23)):
        lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
        states = torch.randn(rows, tokens, 64, generator=generator)
        side = Encoding(states[:, 0], states, torch.arange(tokens)[None] < lengths)
        with torch.no_grad():
            assert (UnpackedBiLstm(head)(side) - head(side)).abs().max() < 1e-6
