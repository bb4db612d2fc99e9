"""What a running stage says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_modules.progress import Progress
from ray_jobs.stopping import StopRequest
from tests.helpers import tree_driver


@pytest.mark.slow
def test_progress_says_which_seed_where_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree_driver(tmp_path, [{"name": "para", "tasks": ["quora"]}], seeds=2).run(StopRequest(""))
    steps = [line for line in capsys.readouterr().out.splitlines() if re.search(r"step \d+/\d+", line)]
    assert {line.split("  ")[0] for line in steps} == {"para (seed 11711)", "para (seed 11712)"}


@pytest.mark.slow
def test_one_seed_is_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree_driver(tmp_path, [{"name": "para", "tasks": ["quora"]}]).run(StopRequest(""))
    assert "seed" not in capsys.readouterr().out


def test_what_a_worker_posts_is_told_under_the_name_that_came_with_it() -> None:
    line = Progress("sst", "step", 1, 2, 3, 4, 0.5)
    assert Progress.of(line.to_json()) == line
    posted = line.to_json() | {"label": "sst@lr=1", "shown": "sst@lr=1 (seed 7)"}
    assert Progress.of(posted).stage == "sst@lr=1 (seed 7)"
