"""`minibert train --folds`: every row is dev once, predicted by a model that had not seen it; nothing trains twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean

import pytest
import yaml
from typer.testing import CliRunner

from ray_jobs.cli.program import app

COUNT = 90


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of one file of its own."""
    monkeypatch.chdir(tmp_path)
    with open("tone.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "tone", "author"])
        writer.writerows(
            [f"a {word} day, number {at}", word, at % 9] for at in range(COUNT // 2) for word in ("good", "bad")
        )
    tone = {"define": {"columns": ["text"], "label": {"column": "tone", "words": ["bad", "good"]}}, "train": "tone.csv"}
    stages = [{"name": "tone", "tasks": ["tone"], "train": "full-model", "lr": 1e-3, "epochs": 2, "batch_size": 8}]
    tree = {"name": "tone", "encoder": "tiny", "tasks": {"tone": tone}, "stages": stages}
    Path("recipe.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


def test_each_row_is_predicted_by_the_model_that_had_not_seen_it(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["train", "recipe.yaml", "--folds", "3", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found == json.loads((recipe / "runs/tone-folds/folds.json").read_text())
    accuracy = found["stages"]["tone"]["tone/accuracy"]
    assert accuracy["n"] == 3 and accuracy["mean"] == pytest.approx(fmean(accuracy["values"]))

    with open(found["out_of_fold"]["tone"], newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["id", "fold"] and header[3] == "tone"
    assert sorted(int(line) for line, *_ in rows) == [*range(2, COUNT + 2)]  # all lines of the file, each once
    assert {label for _, _, label, _ in rows} <= {"good", "bad"}
    assert all(label == ("bad" if int(line) % 2 else "good") for line, _, _, label in rows)
    right = [fmean(said == label for _, of, said, label in rows if int(of) == fold) for fold in (1, 2, 3)]
    assert right == pytest.approx(accuracy["values"])
    for fold, name in enumerate(found["experiments"], start=1):
        facts = json.loads((recipe / "runs" / name / "results.json").read_text())["data"]["tone"]["rows_used"]
        own = [line for line, of, *_ in rows if int(of) == fold]
        assert facts["dev"] == len(own) and facts["train"] == COUNT - len(own) and len(own) > 10

    again = CliRunner().invoke(app, ["train", "recipe.yaml", "--folds", "3"], catch_exceptions=False)
    assert again.stdout.count("tone: finished before, skipped") == 3 and "± " in again.stdout


def test_one_fold_is_no_folds(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["train", "recipe.yaml", "--folds", "1"])
    assert "--folds 1: 2 or more" in str(done.exception)


def test_a_split_trains_and_evaluate_finds_its_rows_again(recipe: Path) -> None:
    words = ["train", "recipe.yaml", "--set", "tasks.tone.split={dev: 0.2, by: author}", "--quiet"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    results = json.loads((recipe / "runs/tone/results.json").read_text())
    used = results["data"]["tone"]["rows_used"]
    assert used["train"] + used["dev"] == COUNT and used["dev"] % 10 == 0 and used["dev"]
    done = CliRunner().invoke(app, ["evaluate", "runs/tone/tone", "--json"], catch_exceptions=False)
    evaluated = json.loads(done.stdout)
    (row,) = evaluated["tasks"]
    assert row["rows"] == used["dev"]
    assert row["value"] == pytest.approx(results["stages"][-1]["metrics"]["tone/accuracy"])
