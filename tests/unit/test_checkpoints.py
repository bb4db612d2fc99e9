"""The checkpoint store finds the newest sound checkpoint, whatever happened to the others."""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.errors import StorageError
from multitask.experiment.checkpoints import Checkpoint, CheckpointStore, Position, State
from multitask.experiment.fence import Superseded
from multitask.storage.sealed import Damaged
from multitask.storage.storage import MANIFEST, Storage
from tests.helpers import difference, full_disk, tiny


def checkpoint(steps: int, value: float = 0.0) -> Checkpoint:
    state = State(Position(epoch=1, step=2, steps=steps), seconds=0.1 * steps, examples=16 * steps)
    return Checkpoint(state, {"w": torch.full((3,), value)}, {"w/exp_avg": torch.full((3,), -value)})


def saved(store: CheckpointStore, *steps: int) -> None:
    for count in steps:
        store.save(checkpoint(count, float(count)))
        store.flush()


def names(store: CheckpointStore) -> list[int]:
    return [int(name.removeprefix("step-")) for name in store.folder.list()]


def newest_steps(store: CheckpointStore) -> int | None:
    found = store.newest()
    return found.state.position.steps if found else None


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "checkpoints"))


@pytest.fixture
def store(folder: Storage) -> CheckpointStore:
    return CheckpointStore(folder)


def flip(folder: Storage, path: str) -> None:
    data = bytearray(folder.read_bytes(path))
    data[-1] ^= 1
    folder.write_bytes(path, bytes(data))


DAMAGE: dict[str, Callable[[Storage], None]] = {
    "unfinished": lambda step: step.remove(MANIFEST),
    "bit-flipped": lambda step: flip(step, "weights.safetensors"),
    "truncated": lambda step: step.write_bytes("state.json", step.read_bytes("state.json")[:-1]),
    "incomplete": lambda step: step.remove("optimizer.safetensors"),
}


def test_an_empty_folder_has_no_checkpoint(store: CheckpointStore) -> None:
    assert store.newest() is None


numbers = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40)
@given(st.builds(Position, *[st.integers(0, 10**7)] * 3), numbers, st.integers(0, 10**9), st.lists(numbers, max_size=5))
def test_a_checkpoint_comes_back_bit_for_bit(
    position: Position, seconds: float, examples: int, values: list[float]
) -> None:
    state = State(position, seconds, examples, {"scale": seconds, "_growth_tracker": examples})
    tensors = {
        "double": torch.tensor(values, dtype=torch.float64),
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "step": torch.tensor(position.steps),
        "view": torch.arange(6.0).reshape(2, 3).t(),
    }
    store = CheckpointStore(Storage(f"memory://checkpoints-{uuid.uuid4().hex}"))
    store.save(Checkpoint(state, tensors, tensors))
    store.flush()
    found = store.newest()
    assert found is not None
    assert found.state == state
    for loaded in (found.weights, found.optimizer):
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)


def test_a_finished_epoch_is_the_next_ones_start() -> None:
    assert State(Position(2, 5, 25)).rolled(5).position == Position(3, 0, 25)
    assert State(Position(2, 4, 24)).rolled(5).position == Position(2, 4, 24)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_and_named(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    saved(store, 100, 200)
    DAMAGE[damage](store.folder.at("step-00000200"))
    with caplog.at_level(logging.WARNING):
        assert newest_steps(store) == 100
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"{store.folder.uri}/step-00000200" in warning
    with pytest.raises(Damaged):
        store.at(200)
    DAMAGE["unfinished"](store.folder.at("step-00000100"))
    assert store.newest() is None


def test_a_checkpoint_of_another_trainer_is_none(tmp_path: Path) -> None:
    folders = [Storage(str(tmp_path / name / "checkpoints")) for name in ("TorchTrainer_1", "TorchTrainer_2")]
    with CheckpointStore(folders[0]) as store:
        store.save(checkpoint(1))
    shutil.copytree(folders[0].uri, folders[1].uri)
    with CheckpointStore(folders[0]) as mine, CheckpointStore(folders[1]) as other:
        assert mine.newest() is not None and other.newest() is None


def test_a_sound_newest_one_needs_no_warning(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    saved(store, 1, 2)
    assert newest_steps(store) == 2
    assert store.at(1).weights["w"].tolist() == [1.0, 1.0, 1.0]
    assert not caplog.records


def test_two_stay_and_the_pinned_beside_them(store: CheckpointStore) -> None:
    store.pinned = {20}
    saved(store, 10, 20, 30, 40, 50)
    assert names(store) == [20, 40, 50]
    store.pinned = {50}
    saved(store, 60, 70)
    assert names(store) == [50, 60, 70]


def test_steps_are_counted_not_spelled(folder: Storage) -> None:
    store = CheckpointStore(folder, keep=1)
    saved(store, 9, 10, 1000)
    assert names(store) == [1000]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_ones_do_not_push_out_sound_ones(store: CheckpointStore, damage: str) -> None:
    """Two runs died while they wrote; the third goes on from 100 and saves before it is where they were."""
    saved(store, 100)
    for steps in (180, 190):
        other = CheckpointStore(store.folder, keep=9)
        saved(other, steps)
        DAMAGE[damage](store.folder.at(f"step-{steps:08d}"))
    saved(store, 150)
    assert newest_steps(store) == 150
    saved(store, 160, 170)
    assert newest_steps(store) == 170
    saved(store, 180)
    assert newest_steps(store) == 180


def assert_in_time(event: Event) -> None:
    assert event.wait(30)


def test_a_save_is_a_snapshot(folder: Storage) -> None:
    """Training changes its tensors in place while the upload waits."""
    weights, optimizer = torch.ones(4), torch.ones(4)
    changed = Event()
    store = CheckpointStore(Storage(folder.uri, lambda: assert_in_time(changed)))
    store.save(Checkpoint(State(), {"w": weights}, {"w/exp_avg": optimizer}))
    weights.zero_()
    optimizer.zero_()
    changed.set()
    store.flush()
    found = store.newest()
    assert found is not None
    assert found.weights["w"].tolist() == found.optimizer["w/exp_avg"].tolist() == [1.0] * 4


@pytest.mark.parametrize(("pinned", "kept"), [(set(), [10, 30]), ({20}, [10, 20, 30])])
def test_one_that_waits_gives_way_to_a_newer_one_unless_it_is_pinned(
    folder: Storage, pinned: set[int], kept: list[int]
) -> None:
    """Training waits for neither, but for a pinned one that waits."""
    landing = Event()
    store = CheckpointStore(Storage(folder.uri, lambda: assert_in_time(landing)), keep=3)
    store.save(checkpoint(10))
    store.save(checkpoint(20))
    store.pinned = pinned
    if pinned:
        landing.set()
    store.save(checkpoint(30))
    landing.set()
    store.flush()
    assert names(store) == kept


@pytest.mark.parametrize("surfaces_in", ["flush", "save", "exit"])
def test_a_fenced_writer_leaves_nothing_and_hears_of_it(folder: Storage, surfaces_in: str) -> None:
    saved(CheckpointStore(folder), 10)
    before = folder.read_bytes(f"step-00000010/{MANIFEST}")

    def fence() -> None:
        raise Superseded("attempt 1 was superseded by attempt 2")

    store = CheckpointStore(Storage(folder.uri, fence))
    store.save(checkpoint(10, 5.0))
    while surfaces_in == "save" and store.busy:  # one that is still on its way is not waited for
        pass
    calls = {"flush": store.flush, "save": lambda: store.save(checkpoint(30)), "exit": lambda: store.__exit__(None)}
    with pytest.raises(Superseded, match="attempt 2"):
        calls[surfaces_in]()
    store.flush()
    assert names(store) == [10]
    assert folder.read_bytes(f"step-00000010/{MANIFEST}") == before


def test_training_hears_of_a_failed_upload_without_waiting_for_one(folder: Storage) -> None:
    saving, failing = Event(), Event()

    def fence() -> None:
        saving.set()
        assert_in_time(failing)
        raise StorageError("the storage is gone")

    store = CheckpointStore(Storage(folder.uri, fence))
    store.check()
    store.save(checkpoint(10))
    assert_in_time(saving)
    assert store.busy
    store.check()
    failing.set()
    until = time.monotonic() + 30
    while store.busy and time.monotonic() < until:
        time.sleep(0.001)
    with pytest.raises(StorageError, match="gone"):
        store.check()
    store.check()  # it is said once
    assert names(store) == []


def test_who_is_superseded_during_an_upload_seals_nothing(folder: Storage) -> None:
    passed = 5  # the folder and its four files
    calls = iter([*[None] * passed, Superseded("attempt 1 was superseded by attempt 2")])

    def fence() -> None:
        if error := next(calls):
            raise error

    store = CheckpointStore(Storage(folder.uri, fence))
    store.save(checkpoint(10))
    with pytest.raises(Superseded, match="attempt 2"):
        store.flush()
    assert names(store) == [10] and store.newest() is None


def test_a_full_disk_is_said_and_the_one_before_stays(store: CheckpointStore) -> None:
    saved(store, 10)
    with full_disk(100_000):
        store.save(replace(checkpoint(20), weights={"w": torch.zeros(100_000)}))
        with pytest.raises(StorageError, match=r"step-00000020.*too large.*files there may not be that large"):
            store.flush()
    assert newest_steps(store) == 10


def test_a_frozen_stages_checkpoint_is_its_heads_and_a_lost_one_is_noticed() -> None:
    model = tiny().model({"sst": "linear"}, seed=1)
    model.set_trainable({"sst": model.sentence_modules("sst", through_head=True)}, full_model=False)
    kept = {name: weight.clone() + 1 for name, weight in model.trained_weights().items()}
    assert kept.keys() == {"heads.sst.layers.0.weight", "heads.sst.layers.0.bias"}
    before = model.encoder.embeddings.word_embeddings.weight.clone()
    model.load_trained(kept)
    assert difference(model.trained_weights(), kept) == 0
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, before)
    with pytest.raises(KeyError, match=r"heads\.sst\.layers\.0\.bias is missing"):
        model.load_trained({"heads.sst.layers.0.weight": kept["heads.sst.layers.0.weight"]})
