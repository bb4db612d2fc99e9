"""TensorBoard's events: whole at the end, and never what ends a training."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import tensorboard
from lightning_modules.tensorboard import EventLog
from multitask.storage import Storage
from tests.helpers import full_disk


def steps(folder: Path) -> list[int]:
    found = EventAccumulator(str(folder))
    found.Reload()
    return [point.step for point in found.Scalars("loss")]


def test_close_copies_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "COPY_SECONDS", 0.01)
    log = EventLog(Storage(str(tmp_path)), purge=0)
    for step in range(300):
        log.scalars({"loss": 1.0, "absent": None}, step)
    log.close()
    assert steps(tmp_path) == list(range(300))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the writer's own thread
def test_a_full_disk_ends_the_events_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorboard, "COPY_SECONDS", 0.01)
    log = EventLog(Storage(str(tmp_path)), purge=0)
    with caplog.at_level(logging.WARNING), full_disk(5_000):
        for step in range(1000):
            log.scalars({"loss": 1.0}, step)
        log.close()
    assert "TensorBoard events end here" in caplog.text
    kept = steps(tmp_path)
    assert kept == list(range(len(kept))) and kept
