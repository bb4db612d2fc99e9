"""Heads and losses of one's own, by import path: what is imported, what is refused, and what has to be kept to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lightning_modules.own.callbacks import own_callbacks
from multitask.bundle.bundle import read_bundle
from multitask.errors import UserError
from multitask.experiment.stage_job import StageJob
from multitask.model.heads import HEADS, build_head
from multitask.objectives.losses import LOSSES
from multitask.recipe.checks import build_recipe
from multitask.recipe.own_check import check_own
from multitask.storage.storage import Storage
from multitask.tasks.imported import code_of, trust
from multitask.tasks.table import TASKS
from ray_jobs.driver.driver import Driver
from ray_jobs.driver.jobs import job_of
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.screen import Screen
from tests.helpers import difference, newest, only_trains, recipe_tree, refused_stage, run, small_job, stop_at
from tests.own_modules import own_modules

GOOD = '''
import torch
import torch.nn.functional as F
from torch import nn
from multitask.model.dropout import Dropout

def absolute(outputs, labels, weights):
    """The absolute difference."""
    wide = outputs.float() if outputs.element_size() < 4 else outputs
    return (wide - labels).abs().mul(weights).sum(), weights.sum()

class OfClasses(nn.Module):
    uses_tokens = False

    def __init__(self, hidden_size, spec):
        super().__init__()
        self.out = nn.Linear(hidden_size, spec.label.outputs)

    def forward(self, first, second=None):
        return self.out(first.sentence)

class Gated(nn.Module):
    uses_tokens = False

    def __init__(self, hidden_size, spec):
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(hidden_size), Dropout(0.1, "gated")
        self.scale = nn.Parameter(torch.randn(hidden_size))
        self.out = nn.Linear(hidden_size * spec.sides, spec.label.outputs)
        self.one_output = not spec.label.shape

    def forward(self, *sides):
        kept = [self.drop(self.norm(side.sentence), side.first_keys) for side in sides if side is not None]
        joined = torch.cat([side * self.scale for side in kept], dim=1)
        return self.out(joined).squeeze(-1) if self.one_output else self.out(joined)
'''
CALLBACK = """
from pytorch_lightning.callbacks import Callback

class Counting(Callback):
    steps = 0
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        Counting.steps += 1
"""
BAD = """
import torch
from torch import nn

def mean(outputs, labels, weights):
    total = (outputs - labels).square().mul(weights).sum()
    return total / weights.sum().clamp(min=1), torch.ones((), dtype=weights.dtype)

def unweighted(outputs, labels, weights):
    return (outputs - labels).square().sum(), weights.sum()

class Dropped(nn.Module):
    uses_tokens = False
    def __init__(self, hidden_size, spec):
        super().__init__()
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(hidden_size * spec.sides, spec.label.outputs)
        self.idle, self.one_output = nn.Linear(2, 2), not spec.label.shape
    def forward(self, *sides):
        found = self.out(self.drop(torch.cat([side.sentence for side in sides if side is not None], dim=1)))
        return found.squeeze(-1) if self.one_output else found

class FirstAlone(nn.Module):
    uses_tokens = False
    def __init__(self, hidden_size, spec):
        super().__init__()
        self.out, self.one_output = nn.Linear(hidden_size, spec.label.outputs), not spec.label.shape
    def forward(self, first):
        found = self.out(first.sentence)
        return found.squeeze(-1) if self.one_output else found

class Padded(nn.Module):
    uses_tokens = True
    def __init__(self, hidden_size, spec):
        super().__init__()
        self.out, self.one_output = nn.Linear(hidden_size * spec.sides, spec.label.outputs), not spec.label.shape
    def forward(self, *sides):
        found = self.out(torch.cat([side.tokens.sum(dim=1) for side in sides if side is not None], dim=1))
        return found.squeeze(-1) if self.one_output else found

class Untold(nn.Module):
    pass

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules good_own and bad_own in the working directory."""
    modules = {"good_own": GOOD, "bad_own": BAD, "called_own": CALLBACK, "broken_own": "1 / 0"}
    with own_modules(tmp_path, monkeypatch, **modules) as folder:
        yield folder


def test_what_keeps_to_everything_is_told_so() -> None:
    for path in ("good_own:absolute", "good_own:Gated"):
        found = check_own(path)
        assert found and all(one.kept for one in found), [one.line() for one in found if not one.kept]
    assert {one.of for one in check_own("good_own:absolute")} >= {"score", "probability"}


def test_a_head_of_some_kinds_of_label_is_checked_on_those() -> None:
    found = check_own("good_own:OfClasses")
    assert {"classes, single texts", "multilabel, single texts"} <= {one.of for one in found}
    assert "binary, single texts" not in {one.of for one in found} and all(one.kept for one in found)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("mean", {"two ranks' sums and counts add up to one's", "a rank without examples gives 0 and 0, with a graph"}),
        ("unweighted", {"an example of weight 0 changes nothing", "the gradient is finite, and 0 for one of weight 0"}),
        ("Dropped", {"an example's outputs are its own, whatever the batch is", "every weight has a gradient"}),
        ("FirstAlone", {"outputs have the label's shape"}),  # training gives a second side too, None for single texts
        ("Padded", {"padding changes nothing"}),
    ],
)  # fmt: skip
def test_what_does_not_is_named(name: str, broken: set[str]) -> None:
    assert {one.what for one in check_own(f"bad_own:{name}") if not one.kept} >= broken


@pytest.mark.parametrize("name", [*dict.fromkeys(loss for loss in LOSSES)])
def test_the_built_in_losses_keep_to_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import good_own  # type: ignore[import-not-found]

    monkeypatch.setattr(good_own, "Built", LOSSES[name], raising=False)
    assert all(one.kept for one in check_own("good_own:Built")), name


@pytest.mark.parametrize("name", [*HEADS])
def test_the_built_in_heads_keep_to_it_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import good_own

    monkeypatch.setattr(good_own, "Built", HEADS[name], raising=False)
    assert all(one.kept for one in check_own("good_own:Built")), name


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"loss": "nowhere:Mine"}, "'nowhere:Mine': no module nowhere, neither installed nor below "),
        ({"loss": "good_own:absolut"}, "'good_own:absolut': good_own has no absolut; did you mean absolute?"),
        ({"loss": "bad_own:NUMBER"}, "'bad_own:NUMBER': it is int; valid: a function"),
        ({"loss": "good_own:Gated"}, "'good_own:Gated': it is type; valid: a function"),
        ({"loss": "broken_own:Mine"}, "'broken_own:Mine': importing broken_own failed: ZeroDivisionError"),
        ({"head": "good_own:absolute"}, "'good_own:absolute': it is function; valid: a torch.nn.Module's class"),
        ({"head": "bad_own:Untold"}, "'bad_own:Untold': Untold.uses_tokens is missing"),
    ],
)
def test_what_is_no_head_or_loss_is_one_line(task: dict[str, str], said: str) -> None:
    stages = [{"name": "sts", "tasks": ["sts"], "train": "full-model", "lr": 1e-3}]
    tree = {"name": "own", "encoder": "tiny", "tasks": {"sts": {"head": "linear", **task}}, "stages": stages}
    with pytest.raises(UserError) as caught:
        build_recipe(tree, "recipe")
    key = "head" if "head" in task else "loss"
    assert str(caught.value).startswith(f"recipe: tasks.sts.{key}: {said}")


def test_a_bundle_alone_has_nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> torch.nn.Module:
        return build_head("good_own:Gated", 8, TASKS["sst"], torch.Generator())

    with pytest.raises(UserError, match=r"code that no recipe of this run names; .*: MINIBERT_OWN_CODE=good_own"):
        build()
    assert "good_own" not in sys.modules
    monkeypatch.setenv("MINIBERT_OWN_CODE", "other,good_own")
    assert type(build()).__name__ == "Gated"


def test_the_seed_draws_all_weights_and_the_callers_generator_is_left_alone() -> None:
    trust(["good_own:Gated"])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, other, third = (
        build_head("good_own:Gated", 8, TASKS["sst"], torch.Generator().manual_seed(seed)).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert difference(one, other) == 0.0 and difference(one, third) > 0.1


def test_a_run_knows_ones_own_code_by_its_file(own: Path) -> None:
    trust(["good_own:Gated"])
    found = code_of(["linear", None, "good_own:Gated", "good_own:absolute"])
    assert list(found) == ["good_own:Gated", "good_own:absolute"]
    (own / "good_own.py").write_text(GOOD + "\n# another\n")
    assert code_of(["good_own:Gated"])["good_own:Gated"] != found["good_own:Gated"]


def test_a_stage_that_is_stopped_and_goes_on_equals_one_that_was_not(tmp_path: Path) -> None:
    def job(experiment: str) -> StageJob:
        tree = recipe_tree(tasks=["sts"])
        tree["tasks"]["sts"] = {"head": "good_own:Gated", "loss": "good_own:absolute"}
        request = TrainingRequest(build_recipe(tree, "own"), None, Storage(f"{tmp_path}/runs"), experiment, Workers())
        driver = Driver(request, Screen())
        driver.claim()
        driver.experiment.begin_attempt()
        assert set(driver.experiment.stages["para"].content["code"]) == {"good_own:Gated", "good_own:absolute"}
        return only_trains(job_of(driver.plan, driver.plan.nodes[0]))

    stopped, whole = job("stopped"), job("whole")
    assert not run(stopped, stop_at(4)) and run(stopped) and run(whole)
    assert difference(newest(stopped).weights, newest(whole).weights) == 0.0
    assert read_bundle(stopped.folder, "bundle").heads["sts"] == "good_own:Gated"


def test_a_callback_of_ones_own_is_called_and_makes_another_stage(tmp_path: Path) -> None:
    job = small_job(tmp_path / "runs", epochs=1, callbacks=["called_own:Counting"])
    assert run(job)
    steps = newest(job).state.position.steps
    assert sys.modules["called_own"].Counting.steps == steps > 0
    plain = small_job(tmp_path / "others", epochs=1)
    assert job.owner.trainer.split("_")[1] != plain.owner.trainer.split("_")[1], "a fingerprint of its own"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("called_own:Conting", "called_own has no Conting; did you mean Counting?"),
        ("called_own", "'called_own' is not of the form package.module:Name"),
    ],
)
def test_what_is_no_callback_is_one_line(path: str, said: str) -> None:
    refused_stage(re.escape(said), callbacks=[path])


def test_what_is_another_thing_is_said_when_it_is_to_be_called() -> None:
    trust(["good_own:absolute"])
    with pytest.raises(UserError, match=r"callbacks: 'good_own:absolute': it is function; valid: a class of Lightning"):
        own_callbacks(["good_own:absolute"])


def test_an_edited_file_runs_as_it_is_now(own: Path) -> None:
    trust(["good_own:absolute"])
    one = torch.ones(2)
    assert float(LOSSES["good_own:absolute"].sums(one, one * 3, one)[0]) == 4.0
    (own / "good_own.py").write_text(
        "def absolute(outputs, labels, weights):\n    return weights.sum() * 7, weights.sum()\n"
    )
    assert float(LOSSES["good_own:absolute"].sums(one, one * 3, one)[0]) == 14.0


def test_a_worker_that_has_not_seen_the_recipe_goes_on_from_a_stage_with_a_head_of_ones_own(own: Path) -> None:
    """The second stage has another head; its worker is a process of its own, as after a kill."""
    tree = recipe_tree(tasks=["sts"], epochs=1)
    tree["tasks"]["sts"] = {"head": "good_own:Gated"}
    tree["stages"].append({**tree["stages"][0], "name": "again", "heads": {"sts": "cosine"}})
    request = TrainingRequest(build_recipe(tree, "own"), None, Storage(f"{own}/runs"), "two", Workers())
    driver = Driver(request, Screen())
    driver.claim()
    driver.experiment.begin_attempt()
    first, second = (only_trains(job_of(driver.plan, node)) for node in driver.plan.nodes)
    assert run(first)
    (own / "job.json").write_text(json.dumps(second.to_json()))
    code = (
        "import json; from multitask.experiment.stage_job import StageJob; from lightning_modules.run import *; "
        "run_stage(StageJob.of(json.load(open('job.json'))), Execution('cpu'), lambda progress: False)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=own, check=True)
    assert read_bundle(second.folder, "bundle").heads["sts"] == "cosine"


def test_a_loss_that_gives_a_mean_is_named(own: Path) -> None:
    (own / "mean_own.py").write_text("def mean(outputs, labels, weights):\n    return outputs.mean()\n")
    trust(["mean_own:mean"])
    with pytest.raises(UserError, match=r"^'mean_own:mean': it gives a tensor of shape \(\); valid: \(sum, count\)"):
        LOSSES["mean_own:mean"].sums(torch.ones(3), torch.ones(3), torch.ones(3))


def test_a_callback_that_wants_arguments_and_one_that_is_checked_are_one_line(own: Path) -> None:
    text = "from pytorch_lightning import Callback\nclass Needs(Callback):\n    def __init__(self, k): pass\n"
    (own / "needs_own.py").write_text(text)
    trust(["needs_own:Needs"])
    with pytest.raises(UserError, match=r"^callbacks: 'needs_own:Needs': .*'k'; valid: a class that is made without"):
        own_callbacks(["needs_own:Needs"])
    with pytest.raises(UserError, match=r"^'needs_own:Needs': it is the class Needs; valid: a head, loss, measure"):
        check_own("needs_own:Needs")
