"""Twenty steps of each stage's loss, compared with the values of an earlier day.

Tolerance 1e-3 relative: another CPU adds up in another order. After a change that is meant to change the
numbers: MINIBERT_WRITE_GOLDEN=1 pytest tests/golden, and say why in docs/log.md.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules import callbacks
from tests.helpers import run, small_job

GOLDEN = Path(__file__).parent
STAGES: dict[str, dict[str, Any]] = {
    "supervised_quora_full": {"tasks": ["quora"], "train": "full-model"},
    "supervised_sts_full": {"tasks": ["sts"], "train": "full-model", "schedule": "linear", "warmup": 0.2, "clip": 1.0},
    "supervised_sst_last": {"tasks": ["sst"], "train": "last-linear-layer", "lr": 1e-2},
    "mlm": {"objective": "mlm", "tasks": ["sst", "quora", "sts"], "max_examples": 15},
    "ranking": {"objective": "ranking", "tasks": ["quora"], "ranking": {"symmetric": True, "hard_negatives": True}},
    "joint": {
        "tasks": ["sst", "quora"], "mixing": {"sst": 1.0, "quora": 3.0}, "loss_weights": {"sst": 0.5},
        "epochs": 5, "max_examples": 30,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_twenty_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "LOG_STEPS", 1)
    job = small_job(tmp_path, **{"epochs": 4, **STAGES[name]})
    assert run(job)
    events = EventAccumulator(job.events.uri)
    events.Reload()
    found = {tag: [e.value for e in events.Scalars(f"train/{tag}")] for tag in ("loss", "lr", "gradient_norm")}
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, 21))
    tasks = STAGES[name]["tasks"]
    apart = {tag for tag in events.Tags()["scalars"] if tag.startswith("train/loss_")}
    assert apart == ({f"train/loss_{task}" for task in tasks} if len(tasks) > 1 else set())
    file = GOLDEN / f"{name}.json"
    if os.environ.get("MINIBERT_WRITE_GOLDEN"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(file.read_text())
    for tag, values in golden.items():
        assert found[tag] == pytest.approx(values, rel=1e-3), tag
