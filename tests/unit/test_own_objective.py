"""An objective of one's own, by import path: its options, what it has to keep to, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multitask.errors import UserError
from multitask.objectives.table import BUILT_IN
from multitask.recipe.checks import build_recipe
from multitask.recipe.own_check import check_own
from multitask.recipe.stages import Stage
from multitask.recipe.sweeps import trials
from tests.helpers import difference, newest, recipe_tree, refused_stage, run, small_job, stop_at
from tests.own_modules import own_modules

ALIGNMENT = "tests.own:Alignment"
BROKEN = """
import torch
from multitask.objectives.base import Objective
from multitask.objectives.contrastive import Contrastive
from tests.own import Alignment

class Kept(Alignment):
    def state(self):
        return {}

class Mean(Alignment):
    def loss(self, batch, place):
        total, count = super().loss(batch, place)
        return total / count.clamp(min=1), torch.ones(())

class Unweighted(Alignment):
    def loss(self, batch, place):
        return self.model.encode(batch).sentence.square().sum(), batch.weights.sum()

class Everything(Alignment):
    uses_head = True

class Comparing(Contrastive):
    @classmethod
    def compares(cls, options):
        return False

class Drawn(Alignment):
    def loss(self, batch, place):
        total, count = super().loss(batch, place)
        return total * torch.rand(()), count

class Rooted(Alignment):
    def loss(self, batch, place):
        one, two = self.model.encode(batch).sentence.chunk(2)
        return ((one - two).square().sum(dim=1).sqrt() * batch.weights).sum(), batch.weights.sum()

class Lossless(Objective):
    pass

class Optional(Alignment):
    Options = dict
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module broken_objectives in the working directory."""
    with own_modules(tmp_path, monkeypatch, broken_objectives=BROKEN) as folder:
        yield folder


def test_what_keeps_to_everything_is_told_so_on_the_tasks_that_it_serves() -> None:
    found = check_own(ALIGNMENT)
    assert {one.of for one in found} == {"quora", "sts"}, "sst has no similar pairs"
    assert len(found) == 14 and all(one.kept for one in found), [one.line() for one in found if not one.kept]


@pytest.mark.parametrize("name", [*BUILT_IN])
def test_the_built_in_objectives_keep_to_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.own.Alignment", BUILT_IN[name])
    found = check_own(ALIGNMENT)
    assert found and all(one.kept for one in found), [one.line() for one in found if not one.kept]


RANKS, ALONE = "two ranks' sums and counts add up to one's", "a rank without examples gives 0 and 0, with a graph"


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("Kept", {"one made anew, given what `state` keeps, gives the same loss"}),
        ("Mean", {RANKS, ALONE}),
        ("Unweighted", {"an example of weight 0 changes nothing"}),
        ("Everything", {"every weight that it says it reaches has a finite gradient"}),
        ("Comparing", {RANKS}),
        ("Rooted", {"every weight that it says it reaches has a finite gradient"}),
        ("Drawn", {"the same batch gives the same loss"}),
    ],
)
def test_what_does_not_is_named(name: str, broken: set[str]) -> None:
    assert {one.what for one in check_own(f"broken_objectives:{name}") if not one.kept} >= broken


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"objective": "tests.own:Alignments"}, "objective: 'tests.own:Alignments': tests.own has no Alignments; "),
        ({"objective": "tests.own:F"}, "objective: 'tests.own:F': it is module; valid: a class of multitask"),
        ({"objective": "broken_objectives:Lossless"}, "Lossless.loss is missing; valid: (batch, place) -> (sum, "),
        ({"objective": "broken_objectives:Optional"}, "Optional.Options: valid: None, or a class of multitask.tasks."),
        ({"objective": "rankin"}, "objective: 'rankin': Input should be 'supervised', 'mlm', "),
        ({"objective": ALIGNMENT, "options": {"pow": 1.0}}, "options.pow: unknown key; known keys: power; did you"),
        ({"objective": ALIGNMENT, "options": {"power": 0.0}}, "stages.para.options.power: 0.0: Input should be "),
        ({"objective": "ranking", "options": {"scale": 1.0}}, "ranking is built in, and its options stand under "),
        ({"objective": ALIGNMENT, "tasks": ["sst"]}, "'sst' has no similar pairs for tests.own:Alignment"),
        ({"objective": ALIGNMENT, "train": "last-linear-layer"}, "tests.own:Alignment has no head; full-model"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(stage: dict[str, Any], said: str) -> None:
    refused_stage(re.escape(said), **stage)


def test_its_options_are_its_own_and_can_be_swept() -> None:
    def stage(**more: Any) -> Stage:
        return build_recipe(recipe_tree(objective=ALIGNMENT, **more), "r.yaml").stages[0]

    assert stage().options.power == 2.0 and "options" not in stage().content()
    assert stage(options={"power": 1.0}).content()["options"] == {"power": 1.0}
    swept = stage(sweep={"grid": {"options.power": [1.0, 3.0]}, "by": "sts/pearson"})
    assert [trial.stage.options.power for trial in trials(swept, 1, "r.yaml")] == [1.0, 3.0]
    with pytest.raises(UserError, match=r"'options.pow' cannot be swept; valid: .*, options.power; did you mean"):
        stage(sweep={"grid": {"options.pow": [1.0]}, "by": "sts/pearson"})
    with pytest.raises(UserError, match=r"stages.para.options.power: -1.0: Input should be greater than 0"):
        stage(sweep={"grid": {"options.power": [-1.0]}, "by": "sts/pearson"})


def test_a_stopped_stage_equals_one_that_was_not_and_is_known_by_its_file(tmp_path: Path) -> None:
    stage: dict[str, Any] = {"objective": ALIGNMENT, "tasks": ["quora"], "options": {"power": 1.0}}
    stopped, whole = (small_job(tmp_path / name, **stage) for name in ("stopped", "whole"))
    assert not run(stopped, stop_at(3)) and run(stopped) and run(whole)
    one, other = newest(stopped), newest(whole)
    assert float(one.extra["steps"]) == one.state.position.steps > 3
    assert difference(one.weights, other.weights) == difference(one.extra, other.extra) == 0.0
    again = small_job(tmp_path / "again", **stage | {"options": {"power": 3.0}})
    assert again.owner.trainer.split("_")[1] != whole.owner.trainer.split("_")[1]
