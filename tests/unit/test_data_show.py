"""`minibert data show`: counts that add up, repeated and torn rows, and one line for what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multitask.errors import UserError
from multitask.recipe.data_show import render_looks, show_data
from ray_jobs.cli.program import app

ROWS = ["one text,1", "one text,3", "another text of six words here,1", "one text,1", "last,4"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "ids-sst-train.csv").write_text("\n".join(["sentence,sentiment", *ROWS]) + "\n")
    (tmp_path / "ids-sst-test-student.csv").write_text("sentence\nwhatever it is\n")
    return str(tmp_path)


def test_a_files_look_by_hand(folder: str) -> None:
    train, test = show_data(folder, None, None, None)
    assert (train.task, train.split, train.rows) == ("sst", "train", 5)
    assert train.labels == {"1": 3, "3": 1, "4": 1}
    assert train.lengths == {"1 .. 4": 4, "5 .. 8": 1}
    assert (train.repeated, train.torn) == (2, 1)  # "one text" thrice, as 1 and as 3
    assert train.examples == {"1": ["one text", "another text of six words here"], "3": ["one text"], "4": ["last"]}
    assert (test.labels, test.rows, test.repeated) == ({}, 1, 0)
    said = render_looks([train]).splitlines()
    assert said[2] == f"    1  {'#' * 30}  3 (60.0%)" and said[3] == f"    3  {'#' * 10:<30}  1 (20.0%)"


def test_one_file_as_json(folder: str) -> None:
    done = CliRunner().invoke(app, ["data", "show", folder, "--split", "train", "--json"], catch_exceptions=False)
    (found,) = json.loads(done.stdout)
    assert found["labels"] == {"1": 3, "3": 1, "4": 1} and found["torn"] == 1


@pytest.mark.parametrize(
    ("task", "split", "said"),
    [
        ("st", None, r"--task 'st': .* has .*; did you mean sst\?|sts\?"),
        (None, "devel", r"--split 'devel': valid: train, dev, test; did you mean dev\?"),
        ("quora", None, "no file of quora"),
        ("sst", "dev", "no file of sst, dev"),
    ],
)
def test_what_is_not_there_is_one_line(folder: str, task: str | None, split: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        show_data(folder, None, task, split)
