"""Rule 1: ranks change speed, not results. Rule 2: resume equals never having stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.records import read_records
from multitask.bundle import load_bundle
from multitask.checkpoints import CheckpointStore
from multitask.storage import Storage
from tests.helpers import difference, newest, run, run_ranks, small_job, stop_at

EXACT = {"precision": "64-true", "dropout": 0.0, "encoder_dropout": 0.0}


# The last batch of 16 holds one example, for two ranks; or eleven.
@pytest.mark.parametrize("examples", [65, pytest.param(75, marks=pytest.mark.slow)])
def test_two_ranks_equal_one_in_float64(tmp_path: Path, examples: int) -> None:
    jobs = [small_job(tmp_path, name, max_examples=examples, epochs=1, **EXACT) for name in ("one", "two")]
    run(jobs[0])
    run_ranks(jobs[1], world=2)
    one, two = (newest(job) for job in jobs)
    assert one.state.position == two.state.position
    assert one.state.examples == two.state.examples == examples
    assert difference(one.weights, two.weights) < 1e-9
    assert difference(one.optimizer, two.optimizer) < 1e-9
    metrics = [job.folder.read_json("outcome.json")["metrics"] for job in jobs]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-9)


# Two epochs of five steps. A stop asked for after step n comes after step n + 1, all ranks agreeing on it, or in the
# measurement after an epoch's last step; that after step 10 leaves no training to do.
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "best": {"keep": {"best": "quora/accuracy"}},
    "stage": {"validate": "stage", "schedule": "cosine", "warmup": 0.3, "clip": 0.5, "weight_decay": 0.1},
    "frozen": {"train": "last-linear-layer", "tasks": ["sst"], "lr": 1e-2},
}
STOPS = {"full": [(1, 2), (5, 5), (10, 10)], "best": [(10, 10)], "stage": [(4, 5)], "frozen": [(3, 4)]}


@pytest.mark.parametrize(
    ("kind", "asked", "stopped"), [(kind, *stop) for kind, stops in STOPS.items() for stop in stops]
)
def test_a_resumed_stage_equals_an_undisturbed_one(tmp_path: Path, kind: str, asked: int, stopped: int) -> None:
    stage = KINDS[kind]
    whole, parts = small_job(tmp_path, "whole", **stage), small_job(tmp_path, "parts", **stage)
    assert run(whole)
    assert not run(parts, stop_at(asked))
    assert not parts.folder.exists("outcome.json")
    assert newest(parts).state.position.steps == stopped
    assert run(parts)
    assert difference(newest(whole).weights, newest(parts).weights) == 0
    assert difference(newest(whole).optimizer, newest(parts).optimizer) == 0
    outcomes = [job.folder.read_json("outcome.json") for job in (whole, parts)]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]
    assert outcomes[0]["kept_epoch"] == outcomes[1]["kept_epoch"]
    assert outcomes[0]["steps"] == outcomes[1]["steps"] == 10
    bundles = [load_bundle(job.folder, "bundle").tensors for job in (whole, parts)]
    assert difference(*bundles) == 0


def test_keep_best_keeps_the_best_epochs_weights(tmp_path: Path) -> None:
    job = small_job(tmp_path, keep={"best": "quora/accuracy"}, epochs=6, lr=1e-2)
    assert run(job)
    records = read_records(job.folder, upto=30)
    scores = [record.metrics["quora/accuracy"] or 0.0 for record in records]
    outcome = job.folder.read_json("outcome.json")
    assert outcome["kept_epoch"] == 1 + scores.index(max(scores))
    assert outcome["metrics"]["quora/accuracy"] == max(scores)
    kept = CheckpointStore(job.folder.at("checkpoints")).at(5 * outcome["kept_epoch"])
    assert difference(load_bundle(job.folder, "bundle").tensors, kept.weights) == 0


@pytest.mark.slow
def test_a_frozen_stage_on_two_ranks_equals_one_and_moves_no_encoder_weight(tmp_path: Path) -> None:
    frozen = {"train": "last-linear-layer", "tasks": ["sst"], "lr": 1e-2, **EXACT}
    jobs = [small_job(tmp_path, name, **frozen) for name in ("one", "two")]
    run(jobs[0])
    run_ranks(jobs[1], world=2)
    one, two = (newest(job) for job in jobs)
    assert difference(one.weights, two.weights) < 1e-9
    start = load_bundle(Storage(str(tmp_path)), jobs[0].start).tensors
    for name, before in start.items():
        assert torch.equal(one.weights[name].float(), before), name


def test_a_stage_runs_on_a_storage_that_is_no_directory(tmp_path: Path) -> None:
    here, there = small_job(tmp_path), small_job("memory://runs")
    assert run(here)
    assert not run(there, stop_at(7))
    assert run(there)
    assert difference(newest(here).weights, newest(there).weights) == 0
    assert {"bundle", "checkpoints", "metrics.jsonl", "outcome.json"} <= set(there.folder.list())
    assert any(name.startswith("events.out.tfevents") for name in there.folder.list())


@pytest.mark.slow
def test_three_ranks_resume_bit_equal(tmp_path: Path) -> None:
    """From three ranks on, gloo's summation order depends on DDP's buckets (lightning_modules/callbacks.py: Resume)."""
    whole, parts = small_job(tmp_path, "whole"), small_job(tmp_path, "parts")
    run_ranks(whole, world=3)
    run_ranks(parts, world=3, stop_step=3)
    assert newest(parts).state.position.steps == 4
    run_ranks(parts, world=3)
    assert difference(newest(whole).weights, newest(parts).weights) == 0
    assert difference(newest(whole).optimizer, newest(parts).optimizer) == 0
