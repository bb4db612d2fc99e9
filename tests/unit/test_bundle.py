"""A bundle: all that prediction needs, and the same predictions after."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from multitask.bundle.bundle import (
    Bundle,
    bundle_fingerprint,
    bundle_of,
    is_bundle,
    read_bundle,
    save_bundle,
    source_bundle,
)
from multitask.data.batches import Batch
from multitask.errors import UserError
from multitask.model.multitask import MultitaskModel
from multitask.model.sources import Source, load_source
from multitask.storage.sealed import write_sealed
from multitask.storage.storage import Storage
from tests.helpers import tiny

HEADS = {"sst": "mlp", "quora": "linear", "sts": "cosine"}


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source("tiny", seed=3)


@pytest.fixture(scope="module")
def bundle(source: Source) -> Bundle:
    """A bundle with heads, as a finished stage leaves it."""
    model = source_bundle(source).model(HEADS, seed=5)
    return bundle_of(model, source.tokenizer.to_str(), {"trainer": "TorchTrainer_086a8", "max_length": 64})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def outputs(model: MultitaskModel, task: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sentences = 1 if task == "sst" else 2
    ids = torch.randint(5, model.config.vocab_size, (4 * sentences, 7), generator=generator)
    mask = torch.arange(7)[None, :] < torch.randint(2, 8, (len(ids), 1), generator=generator)
    blank = torch.zeros(4)
    with model.evaluating():
        return model(Batch(task, ids * mask, mask, blank, blank, blank.long()))


def equal(one: MultitaskModel, other: MultitaskModel, part: str) -> bool:
    states = [
        {name: value for name, value in model.state_dict().items() if name.startswith(part)} for model in (one, other)
    ]
    assert states[0].keys() == states[1].keys() != set()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_masked_language_head_comes_back(source: Source, storage: Storage, kind: str) -> None:
    model = source_bundle(source).model(HEADS, seed=5, mlm=kind)
    save_bundle(storage, "bundle", bundle_of(model, source.tokenizer.to_str(), {}))
    found = read_bundle(storage, "bundle")
    assert found.mlm == kind
    assert equal(found.model(mlm=kind, seed=6), model, "mlm.")  # trained on, not begun again
    assert found.model().mlm is None
    other = {"tied": "untied", "untied": "tied"}[kind]
    again = found.model(mlm=other, seed=6)
    assert not torch.equal(again.mlm.dense.weight, model.mlm.dense.weight)  # another head starts from the seed


def test_a_bundle_of_before_the_masked_language_head_loads(bundle: Bundle, storage: Storage) -> None:
    save_bundle(storage, "bundle", bundle)
    place = storage.at("bundle")
    facts = json.loads(place.read_bytes("model.json"))
    assert facts.pop("mlm", "absent") is None
    files = {name: place.read_bytes(name) for name in place.list() if name != "manifest.json"}
    write_sealed(place, "", {**files, "model.json": json.dumps(facts).encode()}, {})
    found = read_bundle(storage, "bundle")
    assert found.mlm is None
    assert found.model(mlm="tied").mlm is not None
    assert torch.equal(outputs(found.model(), "sst"), outputs(bundle.model(), "sst"))


@pytest.mark.parametrize("remote", [False, True])
def test_a_bundle_comes_back_and_predicts_the_same(bundle: Bundle, storage: Storage, remote: bool) -> None:
    place = Storage(f"memory://bundle-{uuid.uuid4().hex}") if remote else storage
    save_bundle(place, "run/bundle", bundle)
    found = read_bundle(place, "run/bundle")
    assert (found.config, found.pooling, found.heads) == (bundle.config, bundle.pooling, HEADS)
    assert (found.about, found.tokenizer_json) == (bundle.about, bundle.tokenizer_json)
    assert read_bundle(place.at("run/bundle")).heads == HEADS
    for task in HEADS:
        assert torch.equal(outputs(bundle.model(), task), outputs(found.model(), task))


def test_where_a_file_without_a_header_has_its_columns_comes_back(bundle: Bundle, storage: Storage) -> None:
    about = {**bundle.about, "columns": {"sst": {"sentence": 0, "sentiment": 1}, "sts": {"id": "number"}}}
    save_bundle(storage, "b", replace(bundle, about=about))
    assert read_bundle(storage, "b").about == about


@pytest.mark.parametrize(
    "facts", [{"fitted_on": ["x"]}, {"data": {"sst": {"fingerprint": 3}}}, {"columns": {"sst": {"id": -1}}}]
)
def test_what_a_bundle_says_of_files_has_its_form(bundle: Bundle, storage: Storage, facts: dict[str, Any]) -> None:
    save_bundle(storage, "b", replace(bundle, about={**bundle.about, **facts}))
    with pytest.raises(UserError, match=f"model.json: about.{next(iter(facts))}"):
        read_bundle(storage, "b")


def test_a_bundle_is_three_files_and_their_manifest(bundle: Bundle, storage: Storage) -> None:
    save_bundle(storage, "bundle", bundle)
    assert storage.list("bundle") == ["manifest.json", "model.json", "tokenizer.json", "weights.safetensors"]
    assert storage.read_bytes("bundle/tokenizer.json").decode() == bundle.tokenizer_json


def test_a_bundle_stays_what_it_was_while_the_model_trains_on(source: Source) -> None:
    model = source_bundle(source).model(HEADS)
    taken = bundle_of(model, "{}", {})
    before = {name: value.clone() for name, value in taken.tensors.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(taken.tensors[name], value) for name, value in before.items())


def test_weights_are_stored_in_fp32(bundle: Bundle) -> None:
    taken = bundle_of(bundle.model().double(), bundle.tokenizer_json, {})
    assert {value.dtype for value in taken.tensors.values()} == {torch.float32}


def test_heads_that_are_there_come_along_and_others_start_from_the_seed(bundle: Bundle) -> None:
    before = bundle.model()
    one, two = (bundle.model({"sst": "mlp", "quora": "mlp", "cfimdb": "linear"}, seed=seed) for seed in (1, 2))
    assert set(one.heads) == {"sst", "quora", "cfimdb"}
    assert equal(one, before, "encoder.")
    assert equal(one, before, "heads.sst.")
    for new in ("heads.quora.", "heads.cfimdb."):  # quora's was linear
        assert not equal(one, two, new)
    again = bundle.model({"cfimdb": "linear", "quora": "mlp"}, seed=1)
    assert equal(one, again, "heads.quora.")
    assert equal(one, again, "heads.cfimdb.")


def test_dropout_is_the_stages_and_not_the_bundles(bundle: Bundle) -> None:
    model = bundle.model(dropout=0.3, encoder_dropout=0.0)
    assert model.dropout.p == 0.3
    ids = torch.arange(10, 17)[None]
    states = {}
    for rate in (0.0, None):  # none, and what the bundle's config says
        encoder = bundle.model(encoder_dropout=rate).train().encoder
        states[rate] = [encoder(ids, torch.ones_like(ids))[0] for _ in range(2)]
    assert torch.equal(*states[0.0])
    assert not torch.equal(*states[None])
    # What the stage leaves is again a bundle of the encoder's own dropout.
    assert bundle_of(model, bundle.tokenizer_json, {}).config == bundle.config


def test_a_head_that_cannot_serve_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="head 'cosine' cannot serve task 'sst'"):
        bundle.model({"sst": "cosine"})


def test_a_source_is_a_bundle_without_heads(source: Source, storage: Storage) -> None:
    first = source_bundle(source)
    assert first.heads == {}
    assert first.pooling == source.pooling
    assert first.about == {"encoder": "tiny", "fingerprint": source.fingerprint}
    save_bundle(storage, "encoder", first)
    model = read_bundle(storage, "encoder").model({"sst": "linear"})
    assert all(torch.equal(model.encoder.state_dict()[name], value) for name, value in source.state.items())


def test_its_fingerprint_is_of_its_content(bundle: Bundle, storage: Storage) -> None:
    save_bundle(storage, "here", bundle)
    save_bundle(storage, "there", bundle)
    save_bundle(storage, "other", replace(bundle, pooling="cls"))
    here, there, other = (bundle_fingerprint(storage.at(name)) for name in ("here", "there", "other"))
    assert here == there != other


def test_a_bundle_is_told_from_a_name(bundle: Bundle, storage: Storage) -> None:
    save_bundle(storage, "bundle", bundle)
    assert is_bundle(f"{storage.uri}/bundle")
    assert not is_bundle(storage.uri)
    assert not is_bundle("minilm-l6")


DAMAGE: dict[str, tuple[Callable[[Storage], None], str]] = {
    "no manifest": (lambda place: place.remove("manifest.json"), "no bundle there .*model.json"),
    "lost file": (lambda place: place.remove("tokenizer.json"), "damaged"),
    "cut weights": (lambda place: place.write_bytes("weights.safetensors", b"\0" * 99), "damaged: .*weights"),
    "edited": (lambda place: place.write_bytes("model.json", b"{}"), "damaged: .*model.json"),
    "newer": (lambda place: reseal(place, schema=3), "schema 3; this version reads 1 and 2"),
}


def reseal(place: Storage, **facts: object) -> None:
    """The bundle as another version would have written it, soundly."""
    files = {name: place.read_bytes(name) for name in place.list() if name != "manifest.json"}
    changed = json.dumps({**json.loads(files["model.json"]), **facts}).encode()
    write_sealed(place, "", {**files, "model.json": changed}, {})


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_no_sound_bundle_is_refused_by_name(bundle: Bundle, storage: Storage, damage: str) -> None:
    save_bundle(storage, "bundle", bundle)
    change, reason = DAMAGE[damage]
    change(storage.at("bundle"))
    with pytest.raises(UserError, match=f"bundle '{storage.uri}/bundle': {reason}"):
        read_bundle(storage, "bundle")


def test_an_empty_place_is_no_bundle(storage: Storage) -> None:
    with pytest.raises(UserError, match=r"no bundle there .*it holds nothing"):
        read_bundle(storage, "nosuch")


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_that_do_not_fit_their_model_are_named(bundle: Bundle, change: str) -> None:
    tensors = dict(bundle.tensors)
    if change == "missing":
        del tensors["heads.sst.layers.0.weight"]
    else:
        tensors["heads.sst.layers.9.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=rf"{change}.*heads\.sst\.layers\.\d\.weight"):
        replace(bundle, tensors=tensors).model()


def test_a_head_of_another_shape_is_refused_in_one_line() -> None:
    bundle = bundle_of(tiny().model({"sst": "linear"}), tiny().tokenizer_json, {"trainer": "old"})
    name = next(name for name in bundle.tensors if name.startswith("heads.sst") and name.endswith("weight"))
    other = replace(bundle, tensors={**bundle.tensors, name: bundle.tensors[name][:, :3]})
    with pytest.raises(UserError, match=r"bundle old: size mismatch for heads\.sst") as error:
        other.model()
    assert "\n" not in str(error.value)
