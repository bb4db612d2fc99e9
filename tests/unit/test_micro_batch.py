"""`micro_batch` and `recompute`: gradients are the whole batch's, whatever is held meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu.cost import most_held
from multitask.data.batches import Batch
from multitask.experiment.checkpoints import Checkpoint, State
from multitask.model.bert import MiniBert
from multitask.model.dropout import Draws, Dropout
from multitask.objectives.base import Place
from multitask.objectives.memory import Memory, longest_batch
from multitask.recipe.checks import build_recipe
from tests.helpers import (
    difference,
    module_of,
    newest,
    objective_of,
    random_sentences,
    recipe_tree,
    run,
    small_job,
    stop_at,
    table_of,
)

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


@pytest.fixture
def room_for_4(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device on which the encoder has no memory for more than 4 sentences at a time; how many each pass has had."""
    forward, passes = MiniBert.forward, list[int]()

    def within(model: MiniBert, input_ids: Tensor, *more: Any) -> Tensor:
        passes.append(len(input_ids))
        if torch.is_grad_enabled() and len(input_ids) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        found: Tensor = forward(model, input_ids, *more)
        return found

    monkeypatch.setattr(MiniBert, "forward", within)
    return passes


@pytest.mark.parametrize("kind", KINDS)
def test_auto_finds_what_fits_of_the_longest(kind: str, room_for_4: list[int]) -> None:
    objective, batch = made(kind)
    model, task = objective.model, KINDS[kind][0]
    model.micro_batch, model.part_tokens = None, None

    def draw() -> None:
        model.draws = Draws(5)

    Memory(objective).look([task], 6, draw)
    assert all(weight.grad is None for weight in model.parameters())
    longest = longest_batch(objective, task, 6)
    held = model.part_tokens // longest.input_ids.shape[1]
    assert 2 <= held <= 4
    assert int(longest.mask.sum(dim=1).max()) == int(batch.mask.sum(dim=1).max())
    room_for_4.clear()
    gradients(objective, batch, None)
    assert held <= max(room_for_4) <= 4 * held, "of shorter sentences more are held"


def test_a_stage_with_auto_loses_no_step_where_memory_runs_out(
    tmp_path: Path, room_for_4: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"precision": "64-true", "epochs": 1, "max_examples": 44}
    jobs = [small_job(tmp_path, name, micro_batch="auto", **settings) for name in ("auto", "stopped")]
    assert run(jobs[0]) and not run(jobs[1], stop_at(2))
    assert newest(jobs[1]).state.part_tokens
    assert run(jobs[1])
    assert caplog.text.count("memory ran out") >= 2
    monkeypatch.undo()
    jobs.append(small_job(tmp_path, "whole", **settings))
    assert run(jobs[2])
    auto, stopped, whole = (newest(job) for job in jobs)
    assert difference(auto.weights, stopped.weights) == 0.0
    assert difference(auto.weights, whole.weights) < 1e-10
    assert auto.state.seen == stopped.state.seen == whole.state.seen
    assert auto.state.losses == stopped.state.losses


def test_what_is_no_want_of_memory_is_raised_and_so_is_a_sentence_that_is_too_much() -> None:
    objective, batch = made("pairs")
    memory = Memory(objective)
    memory.batch = batch

    def fails(error: RuntimeError) -> Callable[[], None]:
        def closure() -> None:
            raise error

        return closure

    with pytest.raises(RuntimeError, match="shape"):
        memory.again(fails(RuntimeError("shape")), lambda: None)
    assert objective.model.part_tokens is None
    with pytest.raises(RuntimeError, match="can't allocate"):
        memory.again(fails(RuntimeError("DefaultCPUAllocator: can't allocate memory")), lambda: None)
    assert objective.model.part_tokens == batch.input_ids.shape[1]
    memory.batch = replace(batch, features=torch.zeros(2, 3), input_ids=torch.empty(0, 0, dtype=torch.int64))
    with pytest.raises(torch.OutOfMemoryError):
        memory.again(fails(torch.OutOfMemoryError()), lambda: None)


def test_what_was_found_is_forgotten_where_the_stage_no_longer_asks_for_it() -> None:
    found = []
    for micro_batch in ("auto", None):
        module = module_of({"quora": TABLES["quora"]}, micro_batch=micro_batch)
        checkpoint = Checkpoint(State(part_tokens=40), module.model.trained_weights(), {}, {}, [], {})
        module.start(checkpoint, "", 5)
        found.append(module.model.part_tokens)
    assert found == [40, None]


def test_ranks_take_what_the_least_of_them_can_hold(room_for_4: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(found: Tensor, op: Any) -> None:
        assert op == dist.ReduceOp.MIN
        found.clamp_(max=40)

    objective, _ = made("pairs")
    objective.model.draws = Draws(5)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    Memory(objective).look(["quora"], 2, lambda: None)
    assert objective.model.part_tokens == 40


@pytest.mark.parametrize(("settings", "share"), [({"micro_batch": 1}, 0.35), ({"recompute": True}, 0.7)])
def test_less_is_held_for_the_backward_pass(settings: dict[str, Any], share: float) -> None:
    objective, batch = made("pairs")
    plain = {"micro_batch": None}
    held = [most_held(partial(gradients, objective, batch, **some), "cpu") for some in (plain, plain | settings)]
    assert held[1] < share * held[0]


def test_a_stage_is_the_same_one_with_either() -> None:
    stages = [
        build_recipe(recipe_tree(tasks=["quora"], **some), "x").stages[0].content()
        for some in ({}, {"micro_batch": 4}, {"micro_batch": "auto"}, {"recompute": True})
    ]
    assert all(stage == stages[0] for stage in stages[1:])
