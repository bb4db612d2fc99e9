"""`measures:` of a task, from the recipe to whatever shows a score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from multitask.experiment.records import read_records
from multitask.storage.storage import Storage
from tests.helpers import recipe_tree
from tests.integration.test_experiment import minibert

MEASURES = {"sst": ["f1_macro", "log_loss", "auc"], "quora": ["f1", "brier"], "sts": ["spearman", "mae"]}


def tree(**more: Any) -> dict[str, Any]:
    found = recipe_tree(tasks=["sst", "quora", "sts"], epochs=3, keep={"best": "sst/log_loss"})
    for task, measures in MEASURES.items():
        found["tasks"][task]["measures"] = measures
    return found | {"overall": {"tasks": ["sst", "sts"], "measure": {"sst": "mcc", "sts": "kendall"}}} | more


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measures")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree()))
    assert minibert("train", str(folder / "recipe.yaml"), "--storage", str(folder), "--quiet") == 0
    return folder / "small"


def test_all_are_measured_after_each_epoch_and_one_keeps_the_best(place: Path) -> None:
    results = json.loads((place / "results.json").read_text())
    encoder, stage = results["stages"]
    wanted = {f"{task}/{metric}" for task, measures in MEASURES.items() for metric in measures}
    assert wanted | {"sst/mcc", "sts/kendall", "overall/mean"} <= stage["metrics"].keys() == encoder["metrics"].keys()
    assert wanted <= stage["intervals"].keys()
    records = [record.metrics for record in read_records(Storage(str(place / stage["trainer"])))]
    assert stage["metrics"]["sst/log_loss"] == min(record["sst/log_loss"] for record in records[1:])
    assert stage["metrics"]["overall/mean"] == pytest.approx(
        (stage["metrics"]["sst/mcc"] + stage["metrics"]["sts/kendall"]) / 2
    )


def test_evaluating_the_bundle_shows_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert minibert("evaluate", str(place / "para"), "--json") == 0
    found = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)["tasks"]}
    measured = json.loads((place / "results.json").read_text())["stages"][-1]["metrics"]
    assert len(found) == 12
    for name, value in found.items():
        assert value == pytest.approx(measured[name], abs=1e-6), name


def test_a_comparison_and_the_report_have_them(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle,) = place.glob("*/bundle")
    shutil.copytree(bundle, tmp_path / "copy")
    capsys.readouterr()
    assert minibert("evaluate", str(place / "para"), str(tmp_path / "copy"), "--json") == 0
    rows = json.loads(capsys.readouterr().out)["comparisons"]
    assert {row["metric"]: row["difference"] for row in rows}["quora/brier"] == 0.0
    assert minibert("report", str(place)) == 0
    assert "log_loss" in (place / "report.md").read_text()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "tasks.quora.measures=[f1_macro]",
            "tasks.quora.measures: 'f1_macro' is no metric of binary; valid: accuracy, ",
        ),
        ("tasks.sts.measures=[accuracy]", "tasks.sts.measures: 'accuracy' is no metric of score; valid: pearson, "),
        (
            "overall.measure.sts=mae",
            "overall.measure.sts: 'mae' is no score of score; valid: pearson, spearman, kendall, r2",
        ),
        ("stages.para.keep.best=sst/brier", "'sst/brier'"),
    ],
)
def test_what_labels_do_not_have_is_one_line(
    setting: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree()))
    assert minibert("train", str(tmp_path / "recipe.yaml"), "--set", setting, "--storage", str(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_each_class_by_itself(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert minibert("evaluate", str(place / "para"), "--classes", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    values = {row["metric"]: row["value"] for row in found["tasks"]}
    assert found["classes"].keys() == {"sst", "quora"}
    for task, classes in found["classes"].items():
        confusion = np.array(classes["confusion"])
        assert confusion.trace() / confusion.sum() == pytest.approx(values[f"{task}/accuracy"])
        assert [one["rows"] for one in classes["classes"]] == confusion.sum(axis=1).tolist()
        assert [one["given"] for one in classes["classes"]] == confusion.sum(axis=0).tolist()
    assert found["classes"]["quora"]["classes"][1]["f1"] == pytest.approx(values["quora/f1"])
    assert minibert("evaluate", str(place / "para"), "--classes") == 0
    assert "quora, taken for" in capsys.readouterr().out
    assert minibert("evaluate", str(place / "para"), str(place), "--classes") == 2
    assert "--classes: of one bundle" in capsys.readouterr().err
