"""A sampler of one's own, by import path: what it plans, what it has to keep to, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_modules.data import StageData
from multitask.data.own_sampler import Epoch, OwnPlan
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob
from multitask.recipe.own_check import check_own
from multitask.recipe.stages import Stage
from multitask.tasks.imported import trust
from tests.helpers import newest, refused_stage, run, small_job
from tests.own_modules import own_modules
from tests.ranks import run_ranks

SHORT_FIRST = "tests.own:short_first"
BROKEN = """
import os
import numpy as np
from tests.own import short_first

def unseeded(epoch):
    return [(task, np.random.default_rng().permutation(len(lengths))[:epoch.batch_size])
            for task, lengths in epoch.lengths.items() for _ in range(6)]

def shrinking(epoch):
    return short_first(epoch)[epoch.number:]

def far(epoch):
    return [(task, [len(lengths)]) for task, lengths in epoch.lengths.items()]

def negative(epoch):
    return [(task, [0, -1]) for task in epoch.lengths]

def whole(epoch):
    return [(task, np.arange(len(lengths))) for task, lengths in epoch.lengths.items()]

def twice(epoch):
    return [(task, [1, 1]) for task in epoch.lengths]

def empty(epoch):
    return [(task, []) for task in epoch.lengths]

def halves(epoch):
    return [(task, [0.5]) for task in epoch.lengths]

def unknown(epoch):
    return [("poetry", [0])]

def nothing(epoch):
    return []

def endless(epoch):
    return ((task, [0]) for task in epoch.lengths)

def rows_alone(epoch):
    return [[0, 1]]

def changing(epoch):
    for lengths in epoch.lengths.values():
        lengths.sort()
    return short_first(epoch)

def by_process(epoch):
    found = short_first(epoch)
    return found[int(os.environ.get("RANK", 0)):] + found[:int(os.environ.get("RANK", 0))]

def by_label(epoch):
    labels = {task: labels > 0.5 for task, labels in epoch.labels.items()}
    return [(task, np.flatnonzero(some)[:epoch.batch_size]) for task, some in labels.items()]
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module broken_samplers in the working directory."""
    with own_modules(tmp_path, monkeypatch, broken_samplers=BROKEN) as folder:
        yield folder


def test_what_keeps_to_everything_is_told_so() -> None:
    for path in (SHORT_FIRST, "broken_samplers:by_label"):
        found = check_own(path)
        assert {one.of for one in found} == {"one task", "two tasks"} and len(found) == 10
        assert all(one.kept for one in found), [one.line() for one in found if not one.kept]


VALID = "(epoch) gives batches of rows that there are, batch_size at most"


@pytest.mark.parametrize(
    ("name", "what", "why"),
    [
        ("unseeded", "the same epoch has the same plan", "batch 0 is another"),
        ("unseeded", "a resume from a step has the rest of the plan", "from step 6 on it is another"),
        ("shrinking", "all epochs have as many batches", "they have 9, 8, 7"),
        ("far", VALID, "epoch 0: batch 0 has row 43 of sst; valid: 0 to 42"),
        ("negative", VALID, "batch 0 has row -1 of sst; valid: 0 to 42"),
        ("whole", VALID, "batch 0 has rows int64 of shape (43,); valid: 1 to 8 whole numbers"),
        ("twice", VALID, "batch 0 has a row of sst twice; valid: each once"),
        ("empty", VALID, "batch 0 has rows float64 of shape (0,); valid: 1 to 8 whole numbers"),
        ("halves", VALID, "batch 0 has rows float64 of shape (1,); valid: 1 to 8 whole numbers"),
        ("unknown", VALID, "batch 0 is of 'poetry'; valid: sst"),
        ("nothing", VALID, "epoch 0: []; valid: a list of (task, rows)"),
        ("endless", VALID, "valid: a list of (task, rows)"),
        ("rows_alone", VALID, "batch 0 is [0, 1]; valid: (task, rows)"),
        ("changing", VALID, "read-only"),
    ],
)  # fmt: skip
def test_what_does_not_is_named_with_what_was_seen(name: str, what: str, why: str) -> None:
    broken = {one.what: one.why for one in check_own(f"broken_samplers:{name}") if not one.kept}
    assert why in broken[what], broken


def data_of(job: StageJob) -> StageData:
    trust([job.stage["sampler"]])
    return StageData(job, Stage.model_validate(job.stage))


def test_a_stage_trains_on_what_it_plans(tmp_path: Path) -> None:
    stage: dict[str, Any] = {"tasks": ["sst", "quora"], "max_examples": 40, "epochs": 2}
    job = small_job(tmp_path, sampler=SHORT_FIRST, **stage)
    data = data_of(job)
    assert data.steps_per_epoch == 6
    plan = data._plan(0)
    assert [task for task, _ in plan] == ["sst"] * 3 + ["quora"] * 3
    sst = [length for task, rows in plan if task == "sst" for length in data.lengths["sst"][rows].tolist()]
    assert sst == sorted(sst)
    assert sst != [length for task, rows in data._plan(1) if task == "sst" for length in data.lengths["sst"][rows]]
    assert run(job) and newest(job).state.examples == 160
    plain = small_job(tmp_path, "plain", **stage)
    assert run(plain) and newest(plain).state.seen != newest(job).state.seen
    assert plain.owner.trainer.split("_")[1] != job.owner.trainer.split("_")[1], "a fingerprint of its own"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unseeded", "epoch 0: another plan each time; valid: one that goes by nothing but what it is given"),
        ("shrinking", "epoch 1: 4 batches, and epoch 0 has 5; valid: as many in each"),
        ("far", "epoch 0: batch 0 has row 75 of quora; valid: 0 to 74"),
    ],
)
def test_training_on_what_is_no_plan_ends_in_one_line(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"sampler 'broken_samplers:{name}': {said}")):
        run(small_job(tmp_path / "runs", sampler=f"broken_samplers:{name}"))


def test_ranks_that_plan_otherwise_than_each_other_are_refused(tmp_path: Path) -> None:
    job = small_job(tmp_path / "runs", epochs=1, sampler="broken_samplers:by_process")
    with pytest.raises(Exception, match="the plan of epoch 0 is another on each rank; valid: one that goes by nothing"):
        run_ranks(job, world=2)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"sampler": "short_first"}, "stages.para.sampler: 'short_first' is not of the form package.module:Name"),
        ({"sampler": "tests.own:short"}, "stages.para.sampler: 'tests.own:short': tests.own has no short"),
        ({"sampler": "tests.own:Alignment"}, "it is type; valid: a function (epoch) -> [(task, rows), ...]"),
        ({"sampler": SHORT_FIRST, "tasks": ["sst", "quora"], "mixing": "annealed"},
         "stages.para.mixing: 'annealed': the sampler plans which task comes when; leave one out"),
        ({"sampler": SHORT_FIRST, "tasks": ["sst", "quora"], "surgery": "pcgrad"}, "stages.para.surgery: 'pcgrad'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(stage: dict[str, Any], said: str) -> None:
    refused_stage(re.escape(said), **stage)


def test_what_it_is_given_is_of_the_rows_in_use() -> None:
    trust([SHORT_FIRST])
    epoch = Epoch({"sst": np.array([3, 1, 2])}, {"sst": np.zeros(3, np.float32)}, 2, 5, 0, 1)
    assert [(task, rows.tolist()) for task, rows in OwnPlan(SHORT_FIRST, epoch)] == [("sst", [1, 2]), ("sst", [0])]
