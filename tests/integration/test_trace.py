"""MINIBERT_TRACE: what every rank was fed, step by step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightning_modules.trace import VARIABLE
from tests.helpers import newest, run, small_job, stop_at
from tests.ranks import run_ranks


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def test_ranks_are_fed_the_same_global_batches_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {"epochs": 1, "max_examples": 65}
    batches = {}
    for world in (1, 2):
        monkeypatch.setenv(VARIABLE, str(tmp_path / f"trace-{world}"))
        job = small_job(tmp_path, f"world-{world}", **stage)
        if world == 1:
            assert run(job)
        else:
            run_ranks(job, world=world)
        found: dict[object, list[object]] = {}
        for line in lines(tmp_path / f"trace-{world}"):
            assert line["world"] == world and line["stage"] == "para" and line["task"] == "quora"
            found.setdefault(line["step"], []).extend(line["ids"])  # type: ignore[arg-type]
        batches[world] = {step: sorted(map(str, ids)) for step, ids in found.items()}
    assert batches[1] == batches[2]
    assert sorted(batches[1]) == [1, 2, 3, 4, 5] and sum(map(len, batches[1].values())) == 65
    assert len({name for ids in batches[1].values() for name in ids}) == 65


def test_a_resumed_stage_has_seen_what_an_undisturbed_one_has(tmp_path: Path) -> None:
    """The hash in the checkpoint is of all global batches in order, over all attempts; another seed has another one."""
    stage = {"epochs": 2, "max_examples": 65, "checkpoint_steps": 3}
    whole, parts = small_job(tmp_path, "whole", **stage), small_job(tmp_path, "parts", **stage)
    assert run(whole)
    assert not run(parts, stop_at(4))
    part = newest(parts).state.seen
    assert run(parts)
    assert newest(whole).state.seen == newest(parts).state.seen != part
    assert whole.folder.read_json("outcome.json")["examples_seen"] == newest(whole).state.seen
    other = small_job(tmp_path, "other", **{**stage, "max_examples": 64})
    assert run(other)
    assert newest(other).state.seen != newest(whole).state.seen


def test_without_the_variable_there_is_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert run(small_job(tmp_path, epochs=1))
    assert not list(tmp_path.glob("**/*.jsonl")) or {path.name for path in tmp_path.glob("**/*.jsonl")} == {
        "metrics.jsonl"
    }
