"""The feature cache: encodings found again under all that they depend on, and under nothing else."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from multitask.experiment.features import FeatureCache, encoder_key
from multitask.model.multitask import MultitaskModel
from multitask.storage.storage import Storage
from tests.helpers import tiny


def model(seed: int = 0) -> MultitaskModel:
    return tiny().model({"sst": "mlp"}, seed=seed)


@pytest.fixture(params=["directory", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path) if request.param == "directory" else f"memory://features-{uuid.uuid4().hex}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_saved_is_found_bit_for_bit(storage: Storage, dtype: torch.dtype) -> None:
    cache = FeatureCache(storage, "an encoder")
    features = torch.randn(8, 3, dtype=dtype).T  # not contiguous
    rows = np.arange(3)
    assert cache.load("cache/tokens/one", rows) is None
    cache.save("cache/tokens/one", rows, features)
    found = FeatureCache(storage, "an encoder").load("cache/tokens/one", rows)
    assert found is not None and found.dtype == dtype
    assert torch.equal(found, features)


def test_another_encoder_table_or_set_of_rows_has_none(storage: Storage) -> None:
    cache, rows = FeatureCache(storage, "an encoder"), np.array([1, 4])
    cache.save("table", rows, torch.ones(2, 2))
    assert cache.load("table", rows) is not None
    assert cache.load("table", np.array([1, 5])) is None
    assert cache.load("another", rows) is None
    assert FeatureCache(storage, "another encoder").load("table", rows) is None


def test_a_cache_that_cannot_be_used_costs_the_encoding_and_no_stage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, rows = FeatureCache(Storage(str(tmp_path)), "an encoder"), np.arange(2)
    cache.save("table", rows, torch.ones(2, 2))
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    assert cache.load("table", rows) is None
    assert file.name in caplog.text
    file.unlink()
    file.mkdir()
    (file / "in the way").touch()
    cache.save("table", rows, torch.ones(2, 2))
    assert [file.name in record.getMessage() for record in caplog.records] == [True, True]


def test_an_encoders_key_is_of_its_weights_pooling_and_precision() -> None:
    key = encoder_key(model(), "32-true")
    assert encoder_key(model(), "32-true") == key
    assert encoder_key(model(), "bf16-mixed") != key
    other = model()
    other.pooling = "cls"
    assert encoder_key(other, "32-true") != key
    moved = model()
    with torch.no_grad():
        list(moved.encoder.parameters())[-1].view(-1)[0] += 1e-6
    assert encoder_key(moved, "32-true") != key


def test_a_key_has_nothing_to_do_with_heads_or_mode() -> None:
    frozen = model(seed=7).train()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    assert encoder_key(frozen, "32-true") == encoder_key(model(), "32-true")
