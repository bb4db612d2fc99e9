"""Scores on another scale than their task's are said, with the line that mends it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from multitask.data.scales import scale_note
from multitask.recipe.checks import build_recipe
from multitask.recipe.data_check import check_data, render
from multitask.storage.storage import Storage
from multitask.tasks.own import Definition, spec_of
from multitask.tasks.table import TASKS
from ray_jobs.driver.prepare import prepare

STS = TASKS["sts"]
HEADER = "sentence1,sentence2,similarity\n"


def percent(low: float = 0, high: float = 100):
    label = {"column": "score", "kind": "score", "low": low, "high": high}
    return spec_of("grade", Definition.model_validate({"columns": ["a", "b"], "label": label}), "grade")


SAID = {
    "0..1 in 0..5": (STS, "cosine", [0.0, 0.25, 1.0], "similarity lies in 0..1, the task's is a score in 0..5",
                     "tasks.my-sts.define: {columns: [sentence1, sentence2], "
                     "label: {column: similarity, kind: score, low: 0, high: 1}}"),
    "0..1 for a percentage": (percent(), "cosine", [0.1, 0.9], "score lies in 0.1..0.9",
                              "tasks.grade.define: label: {column: score, kind: score, low: 0, high: 1}"),
    "a cosine of 1..5": (STS, "cosine", [1.0, 5.0] * 50, "takes 1 for a cosine of 0.2", "low: 1, high: 5}}, or head"),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "head", "labels", "said", "line"), SAID.values(), ids=SAID)
def test_another_scale_is_said_with_the_line_to_write(spec, head, labels, said: str, line: str) -> None:
    note = scale_note(spec, head, np.array(labels))
    assert said in note
    assert line in note


@pytest.mark.parametrize(
    ("spec", "head", "labels"),
    [
        (STS, "cosine", [0.0, 5.0]),
        (STS, "cosine", [1.0, 5.0] * 49),  # too few to know
        (STS, "interaction", [1.0, 5.0] * 50),
        (STS, "cosine", [2.0] * 200),  # all equal: no scale to be seen
        (STS, "cosine", [float("nan")] * 3),
        (TASKS["sst"], "linear", [0.0, 1.0]),
    ],
)
def test_a_scale_that_fits_is_not_mentioned(spec, head: str, labels: list[float]) -> None:
    assert scale_note(spec, head, np.array(labels)) == ""


def test_it_is_said_by_data_check_and_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"sts-{split}.csv").write_text(HEADER + "a,b,0.2\na,c,1\nb,c,0\n" * 9)
    (report, _) = check_data(str(tmp_path))
    assert "similarity lies in 0..1" in report.note
    assert f"  note: {report.note}" in render([report])
    stages = [{"name": "s", "tasks": ["sts"], "train": "full-model", "lr": 1e-3}]
    recipe = build_recipe({"name": "s", "encoder": "tiny", "tasks": {"sts": {}}, "stages": stages}, "s")
    with caplog.at_level(logging.WARNING):
        prepare(recipe, str(tmp_path), Storage(str(tmp_path / "runs")))
    (record,) = [record for record in caplog.records if record.name == "ray_jobs.driver.prepare"]
    assert "sts-train.csv: similarity lies in 0..1" in record.getMessage()
