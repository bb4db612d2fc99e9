"""When a checkpoint is taken: as due, but never waiting for the one in flight unless it has to be there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules import callbacks
from lightning_modules.callbacks import Checkpointing
from lightning_modules.progress import Interrupted
from multitask.errors import StorageError
from multitask.experiment.checkpoints import Position
from multitask.recipe.stages import Stage


class Store:
    """A store whose flights land when the test says so."""

    def __init__(self) -> None:
        self.busy, self.saved, self.stopped_by = False, list[int](), None

    def check(self) -> None:
        if self.stopped_by and not self.busy:
            raise self.stopped_by

    def flush(self) -> None:
        self.busy = False

    def save(self, steps: int) -> None:
        self.flush()
        self.saved.append(steps)
        self.busy = True


EPOCH = 10


@pytest.fixture
def store() -> Any:
    return Store()


class Training:
    leaving = False

    def __init__(self, store: Any, rank: int = 0, **stage: Any) -> None:
        settings = {"name": "s", "tasks": ["sst"], "train": "full-model", "lr": 1e-3, **stage}
        self.callback, self.stopping, self.rank = Checkpointing(store, [], self.is_leaving), False, rank
        self.stage = Stage.model_validate(settings)

    def is_leaving(self) -> bool:
        self.asked += 1
        return self.leaving

    asked = 0

    def steps(self, *counts: int) -> None:
        for count in counts:
            epoch, step = divmod(count - 1, EPOCH)
            module: Any = SimpleNamespace(
                state=SimpleNamespace(position=Position(epoch, step + 1, count)),
                stage=self.stage,
                steps_per_epoch=EPOCH,
                stopping=self.stopping,
                checkpoint=lambda records, count=count: count,
            )
            trainer: Any = SimpleNamespace(is_global_zero=self.rank == 0)
            self.callback.on_train_batch_end(trainer, module)


def test_what_is_due_while_one_is_in_flight_is_taken_when_that_has_landed(store: Any) -> None:
    training = Training(store, checkpoint_steps=2)
    training.steps(1, 2, 3, 4)
    assert store.saved == [2]
    store.busy = False
    training.steps(5, 6)
    assert store.saved == [2, 5], "the one owed since step 4; the next is in flight again"
    store.busy = False
    training.steps(7)
    assert store.saved == [2, 5, 7]
    store.busy = False
    training.steps(8, 9)
    assert store.saved == [2, 5, 7, 8]


def test_an_epochs_end_and_a_stop_wait_for_the_one_in_flight(store: Any) -> None:
    training = Training(store, checkpoint_steps=9)
    training.steps(9, 10)
    assert store.saved == [9, 10]
    training.stopping = True
    with pytest.raises(Interrupted):
        training.steps(11)
    assert store.saved == [9, 10, 11] and not store.busy


def test_minutes_count_from_the_last_one(store: Any) -> None:
    training = Training(store, checkpoint_minutes=1e-9)
    training.steps(1, 2)
    assert store.saved == [1]
    store.busy = False
    training.steps(3)
    assert store.saved == [1, 3]


def test_what_stopped_an_upload_ends_the_next_step(store: Any) -> None:
    training = Training(store, checkpoint_steps=2)
    training.steps(2)
    store.stopped_by = StorageError("refused")
    training.steps(3)
    store.busy = False
    with pytest.raises(StorageError, match="refused"):
        training.steps(4)
    assert store.saved == [2]


def test_rank_0_alone_saves(store: Any) -> None:
    Training(store, rank=1, checkpoint_steps=1).steps(1, 2, EPOCH)
    assert store.saved == []


def test_a_node_about_to_be_taken_away_is_saved_for_at_once_and_then_every_few_seconds(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    training = Training(store, checkpoint_minutes=60.0)
    training.steps(*range(1, 10))
    training.leaving = True
    training.steps(11, 12)
    assert store.saved == [], "all ranks ask after the same steps only, every tenth"
    training.steps(20)
    store.busy = False
    training.steps(21)
    assert store.saved == [20]
    now[0] = callbacks.LEAVING_SECONDS
    training.steps(22)
    store.busy = False
    training.steps(23, 24)
    assert store.saved == [20, 22]


def test_ranks_ask_after_the_same_steps_whatever_they_are(store: Any) -> None:
    counts = []
    for rank in (0, 1):
        training = Training(store, rank=rank)
        training.steps(*range(1, 31))
        counts.append(training.asked)
    assert counts == [3, 3]
