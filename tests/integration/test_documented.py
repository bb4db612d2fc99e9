"""What the commands that train, and those that ask trained models, print with --json is as its schema says."""

from __future__ import annotations

from pathlib import Path

import pytest

from multitask.data.sample import sample_uri
from tests.documents import document, postings_file

pytestmark = pytest.mark.slow
SHORT = "--set encoder=tiny --set defaults.epochs=1 --set defaults.max_examples=24"
SMALL = "--set encoder=tiny --set max_length=32 --set defaults.epochs=1 --set defaults.batch_size=8"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_experiments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    assert document(f"train demo {SHORT}")["experiment"] == "demo"
    document(f"train demo {SHORT} --experiment other --set seed=3")
    swept = document(f"sweep demo {SHORT} --stage sts --grid lr=1e-3,1e-4 --by sts/pearson")
    assert {row["sweep"]["stage"] for row in swept["stages"] if row["sweep"]} == {"sts"}
    assert document("report runs/demo --price 2.5")["cost"]["price"] == 2.5
    assert document("report runs/other --against runs/demo")["against"]["scores"]
    assert document("ensemble runs/demo/sst runs/other/sst --output both --weights fitted")["dev"]["folds"] == 5
    assert document("report both")["reports"]
    assert document("track runs/demo --to mlflow")["sent"]


def test_folds(folder: Path) -> None:
    lines = [f"a {word} day, number {at}\t{word}" for at in range(20) for word in ("good", "bad")]
    (folder / "tone.tsv").write_text("\n".join(["text\ttone", *lines, ""]))
    (folder / "recipe.yaml").write_text(
        "name: tone\nencoder: tiny\n"
        "tasks: {tone: {train: tone.tsv, define: {columns: [text], label: {column: tone, words: [bad, good]}}}}\n"
        "stages: [{name: tone, tasks: [tone], train: full-model, lr: 1.0e-3, epochs: 1, batch_size: 8}]\n"
    )
    assert document("train recipe.yaml --folds 2")["folds"] == 2


def test_the_recruiter(folder: Path) -> None:
    postings_file(folder / "postings.jsonl")
    document("recruit prepare postings.jsonl --output jobs --held-out 0.3")
    document(f"train recruiter/all --data jobs --experiment all {SMALL}")
    assert document("recruit complete runs/all/completion accountant -k 2")["titles"]
    for stage in ("search", "completion", "suitability"):
        assert document(f"recruit measure runs/all/{stage} --data jobs")["metrics"]
    document("recruit index runs/all/search postings.jsonl --output index")
    words = "recruit audit --suitability runs/all/suitability --index index --data jobs --output audit.json"
    document(f"{words} --impact-ratio 0 --rank-shift 99")
    document("recruit card runs/all/suitability --data jobs --audit audit.json --output CARD.md")
    assert document(f"recruit folds recruiter/search postings.jsonl --count 2 {SMALL}")["folds"] == 2


def test_a_sentiment_is_audited(folder: Path) -> None:
    document(f"train demo {SHORT} --data {sample_uri()}")
    found = document("recruit audit --sentiment runs/demo/sst --sentiment-difference 4")
    assert found["applications"] is None and found["broken"] == 0
