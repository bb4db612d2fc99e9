"""Rule 1: ranks change speed, not results. Rule 2: resume equals never having stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import difference, newest, run, run_ranks, small_job, stop_at

EXACT = {"precision": "64-true", "dropout": 0.0, "encoder_dropout": 0.0}


@pytest.mark.parametrize("examples", [75, 65])  # the last batch of 16 holds 11 examples, and 1 for two ranks
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


@pytest.mark.parametrize("stop", [1, 3, 5])  # mid-epoch, and after an epoch's last step
def test_a_resumed_stage_equals_an_undisturbed_one(tmp_path: Path, stop: int) -> None:
    whole, parts = small_job(tmp_path, "whole"), small_job(tmp_path, "parts")
    assert run(whole)
    assert not run(parts, stop_at(stop))
    assert not parts.folder.exists("outcome.json")
    assert newest(parts).state.position.steps == stop + 1 or stop == 5
    assert run(parts)
    assert difference(newest(whole).weights, newest(parts).weights) == 0
    assert difference(newest(whole).optimizer, newest(parts).optimizer) == 0
    outcomes = [job.folder.read_json("outcome.json") for job in (whole, parts)]
    assert outcomes[0]["metrics"] == outcomes[1]["metrics"]
    assert outcomes[0]["steps"] == outcomes[1]["steps"] == 10


def test_three_ranks_resume_bit_equal(tmp_path: Path) -> None:
    """From three ranks on, gloo's summation order depends on DDP's buckets (lightning_modules/callbacks.py: Resume)."""
    whole, parts = small_job(tmp_path, "whole"), small_job(tmp_path, "parts")
    run_ranks(whole, world=3)
    run_ranks(parts, world=3, stop_step=3)
    assert newest(parts).state.position.steps == 4
    run_ranks(parts, world=3)
    assert difference(newest(whole).weights, newest(parts).weights) == 0
    assert difference(newest(whole).optimizer, newest(parts).optimizer) == 0
