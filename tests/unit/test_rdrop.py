"""R-Drop written out, SMART of some tasks alone, and where both are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from multitask.data.batches import Batch
from multitask.objectives.base import Place
from multitask.recipe.checks import build_recipe
from tests.helpers import objective_of, random_sentences, recipe_tree, refused_stage, table_of

TABLES = {
    "sst": table_of(random_sentences(5), [0, 1, 2, 3, 4], per=1),
    "quora": table_of(random_sentences(10), [0, 1, 0, 1, 1]),
    "sts": table_of(random_sentences(10), [0.0, 1.0, 2.5, 4.0, 5.0]),
}
WEIGHTS = np.array([1, 1, 0, 1, 1], np.float32)


def made(dropout: float = 0.0, **stage: Any) -> Any:
    objective = objective_of(TABLES, **stage)
    objective.model.dropout.p = dropout
    objective.model.train()
    return objective


def batch_of(objective: Any, task: str) -> Batch:
    batch: Batch = objective.batch(task, np.arange(5), WEIGHTS, "epoch 0")
    return batch


def apart(task: str, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Both KLs of probabilities, or the squared difference of scores in 0..5 on the scale 0..1."""
    if task == "sts":
        return ((one - two) / 5).square()
    logs = [it.log_softmax(1) if task == "sst" else torch.stack((F.logsigmoid(it), F.logsigmoid(-it)), 1)
            for it in (one, two)]  # fmt: skip
    both = zip(logs, reversed(logs), strict=True)
    return torch.stack([F.kl_div(p, q, log_target=True, reduction="none").sum(1) for p, q in both]).sum(0)


@pytest.mark.parametrize("task", TABLES)
def test_rdrop_written_out(task: str) -> None:
    objective = made(dropout=0.5, rdrop=3.0)
    plain, batch = made(dropout=0.5), batch_of(objective, task)
    torch.manual_seed(1)
    total, count = objective.loss(batch, Place())
    torch.manual_seed(1)
    losses = [plain.loss(batch, Place()) for _ in range(2)]
    torch.manual_seed(1)
    one, two = (objective.model(batch) for _ in range(2))
    assert not torch.equal(one, two)
    expected = (losses[0][0] + losses[1][0]) / 2 + 1.5 * (apart(task, one, two) * batch.weights).sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-9)
    assert count.item() == 4


def test_without_dropout_rdrop_changes_nothing_but_time() -> None:
    objective, plain = made(rdrop=3.0), made()
    batch = batch_of(objective, "sst")
    found, expected = (it.loss(batch, Place())[0] for it in (objective, plain))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    weights = objective.model.heads["sst"].parameters(), plain.model.heads["sst"].parameters()
    for mine, theirs in zip(*map(torch.autograd.grad, (found, expected), map(list, weights)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_smart_of_some_tasks_leaves_the_others_as_they_are() -> None:
    some, all_of_them, none = made(smart={"tasks": ["sst"]}), made(smart={}), made()
    for task in TABLES:
        batch = batch_of(some, task)
        with_some, with_all, without = (it.loss(batch, Place())[0].item() for it in (some, all_of_them, none))
        assert with_all > without
        assert with_some == (with_all if task == "sst" else without)


def test_smarts_average_is_of_the_weights_before_the_first_batch_of_any_task() -> None:
    objective = made(smart={"tasks": ["sst"]})
    name, weight = next(iter(objective.model.trained_weights().items()))
    before = weight.detach().clone()
    objective.loss(batch_of(objective, "quora"), Place())
    with torch.no_grad():
        weight.add_(1.0)
    objective.loss(batch_of(objective, "sst"), Place())
    assert torch.equal(objective.average.state[name], before)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no head": ({"objective": "mlm", "rdrop": 1.0}, "para.rdrop: it compares what heads predict; mlm trains none"),
    "negative": ({"rdrop": -1.0}, "rdrop: -1.0"),
    "not trained": ({"smart": {"tasks": ["sst"]}}, "para.smart.tasks: 'sst' is not among the stage's tasks: quora"),
    "none": ({"smart": {"tasks": []}}, "stages.para.smart.tasks"),
    "swept": (
        {"objective": "ranking", "sweep": {"grid": {"rdrop": [0.0, 1.0]}, "by": "quora/accuracy"}},
        "stages.para.rdrop: it compares what heads predict; ranking trains none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused_in_one_line(name: str) -> None:
    stage, said = BAD[name]
    refused_stage(said, **stage)


def test_they_are_content_only_where_they_are_given() -> None:
    def content(**stage: Any) -> Any:
        return build_recipe(recipe_tree(**stage), "r.yaml").stages[0].content()

    assert "rdrop" not in content(rdrop=0.0) and content(rdrop=1.0) == {**content(), "rdrop": 1.0}
    assert "tasks" not in content(smart={})["smart"]
    assert content(smart={"tasks": ["quora"]})["smart"] == {**content(smart={})["smart"], "tasks": ["quora"]}
