"""`micro_batch` and `recompute`: gradients are the whole batch's, whatever is held meanwhile."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu.cost import most_held
from multitask.data.batches import Batch
from multitask.model.dropout import Draws, Dropout
from multitask.objectives.base import Place
from multitask.recipe.checks import build_recipe
from tests.helpers import objective_of, random_sentences, recipe_tree, table_of

ROWS = 10
TABLES = {
    "sst": table_of(random_sentences(ROWS), [at % 5 for at in range(ROWS)], per=1),
    "quora": table_of(random_sentences(2 * ROWS, seed=1), [float(at % 3 > 0) for at in range(ROWS)]),
    "sts": table_of(random_sentences(2 * ROWS, seed=2), [at / 2 for at in range(ROWS)]),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": ("sst", {}),
    "pairs": ("quora", {}),
    "cosine": ("sts", {}),
    "cosent": ("sts", {"losses": {"sts": "cosent"}}),
    "rdrop": ("quora", {"rdrop": 1.0}),
    "smart": ("sst", {"smart": {}}),
    "own layers": ("sst", {"copy_top": 1}),
    "mlm": ("sst", {"objective": "mlm"}),
    "ranking": ("quora", {"objective": "ranking", "ranking": {"symmetric": True, "hard_negatives": True}}),
    "contrastive": ("sst", {"objective": "contrastive"}),
}


def gradients(objective: Any, batch: Batch, micro_batch: int | None, recompute: bool = False) -> dict[str, Tensor]:
    model = objective.model
    model.micro_batch, model.encoder.encoder.recompute = micro_batch, recompute
    model.zero_grad()

    def begin() -> None:
        model.draws = Draws(5)

    begin()
    objective.loss(batch, Place(reseed=begin))[0].backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def made(kind: str, **settings: Any) -> tuple[Any, Batch]:
    task, stage = KINDS[kind]
    objective = objective_of({task: TABLES[task]}, **{"batch_size": 64, **stage, **settings})
    for module in objective.model.modules():
        if isinstance(module, Dropout):
            module.p = 0.2
    objective.model.train()
    rows = objective.setup.rows[task]
    weights = np.ones(len(rows), np.float32)
    weights[1] = 0
    return objective, objective.batch(task, rows, weights, "epoch 0")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_batch_with_dropout_on(kind: str) -> None:
    objective, batch = made(kind)
    expected = gradients(objective, batch, None)
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-6
    for micro_batch, recompute in ((1, False), (3, False), (ROWS, False), (None, True), (3, True)):
        found = gradients(objective, batch, micro_batch, recompute)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-12, rtol=1e-9)


def test_256_ranked_16_at_a_time_are_ranked_together() -> None:
    table = table_of(random_sentences(512, seed=3, high=8), [1.0] * 256)
    objective = objective_of({"quora": table}, objective="ranking", batch_size=256)
    batch = objective.batch("quora", np.arange(256), np.ones(256, np.float32), "epoch 0")
    objective.model.train()
    expected, found = (gradients(objective, batch, micro_batch) for micro_batch in (None, 16))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("settings", "share"), [({"micro_batch": 1}, 0.35), ({"recompute": True}, 0.7)])
def test_less_is_held_for_the_backward_pass(settings: dict[str, Any], share: float) -> None:
    objective, batch = made("pairs")
    plain = {"micro_batch": None}
    held = [most_held(partial(gradients, objective, batch, **some), "cpu") for some in (plain, plain | settings)]
    assert held[1] < share * held[0]


def test_a_stage_is_the_same_one_with_either() -> None:
    stages = [
        build_recipe(recipe_tree(tasks=["quora"], **some), "x").stages[0].content()
        for some in ({}, {"micro_batch": 4}, {"recompute": True})
    ]
    assert stages[0] == stages[1] == stages[2]
