"""A joined task, a cross-encoder on probabilities, its texts two segments or as builds before had them: the two rules
hold for it as for any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import dev
from multitask.bundle.bundle import read_bundle
from multitask.data.tokens import load_tokens
from multitask.experiment.stage_job import StageJob
from multitask.measure.evaluate import EvalSet, predictions
from multitask.measure.metrics import score
from multitask.storage.storage import Storage
from ray_jobs.driver.jobs import job_of
from tests.helpers import difference, newest, only_trains, run, stop_at, tree_driver
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow
WORDS = ["a", "good", "film", "about", "the", "fate", "of", "some", "people", "who", "never", "liked", "each", "other"]
EXACT = {"precision": "64-true"}


def joined_job(folder: Path, name: str, pair: str | None = "joined", **stage: Any) -> StageJob:
    """33 rows in batches of 16: the last batch holds one, for two ranks."""
    path = folder / "rows.jsonl"
    rows = [
        {"id": f"{at}/x", "job": " ".join(WORDS[at % 9 :]), "application": " ".join(WORDS[: 2 + at % 7]),
         "score": (at % 3) / 2}
        for at in range(33)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {"suitability": {"train": str(path), "dev": str(path), "pair": pair}}
    stages = [{"name": "fit", "tasks": ["suitability"], "epochs": 2, **stage}]
    driver = tree_driver(folder, stages, tasks=tasks, experiment=name)
    driver.claim()
    driver.experiment.begin_attempt()
    return only_trains(job_of(driver.plan, driver.plan.nodes[0]))


@pytest.mark.parametrize(("train", "pair"), [("full-model", "joined"), ("last-linear-layer", None)])
def test_two_ranks_equal_one_in_float64(tmp_path: Path, train: str, pair: str | None) -> None:
    one, two = (joined_job(tmp_path, name, pair, train=train, **EXACT) for name in ("one", "two"))
    assert run(one)
    run_ranks(two, world=2)
    ends = newest(one), newest(two)
    assert ends[0].state.seen == ends[1].state.seen != ""
    assert difference(ends[0].weights, ends[1].weights) < 1e-9
    metrics = [job.folder.read_json("outcome.json")["metrics"]["suitability/pearson"] for job in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-9)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, cut = (joined_job(tmp_path, name, dropout=0.3) for name in ("whole", "cut"))
    assert run(whole)
    assert not run(cut, stop_at(2))
    assert newest(cut).state.position.steps == 3
    assert run(cut)
    ends = newest(whole), newest(cut)
    assert all(torch.equal(ends[0].weights[name], ends[1].weights[name]) for name in ends[0].weights)
    assert all(torch.equal(ends[0].optimizer[name], ends[1].optimizer[name]) for name in ends[0].optimizer)


@pytest.mark.parametrize("pair", ["joined", None])
def test_a_frozen_encoder_reads_joined_pairs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: str | None
) -> None:
    calls = []
    original = dev.encode_sentences
    monkeypatch.setattr(dev, "encode_sentences", lambda *a, **k: calls.append(a[1].task) or original(*a, **k))
    job = joined_job(tmp_path, "frozen", pair, train="last-linear-layer", epochs=3, dropout=0.0)
    assert run(job)
    assert calls == ["suitability"]  # train and dev are one file here
    rows, bundle = (
        load_tokens(Storage(job.owner.storage), job.data.dev["suitability"]),
        read_bundle(job.folder, "bundle"),
    )
    given = predictions(bundle.model(), EvalSet.of("suitability", rows, "cpu"), device=torch.device("cpu"))
    found = score("pearson", given, rows.labels.double()).value
    assert found == pytest.approx(job.folder.read_json("outcome.json")["metrics"]["suitability/pearson"], abs=1e-6)
