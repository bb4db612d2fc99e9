"""PCGrad and GradVac: against plain loops over whole vectors in float64, alone and through a training step."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.conflict.encoder import EncoderWeights, average_over_ranks
from lightning_modules.conflict.surgery import SurgeryModule
from multitask.objectives.base import Place
from multitask.objectives.surgery import BETA, SURGERIES, GradVac, PcGrad, orders
from tests.helpers import module_of, newest, random_sentences, run, small_job, table_of
from tests.unit.test_conflict import tables
from tests.unit.test_gradients import Ranks

TASKS = ["sst", "quora", "sts"]
seeds = st.integers(0, 2**31)


def pcgrad_by_hand(gradients: list[Tensor], order: list[list[int]]) -> Tensor:
    """The mean of the projected gradients (Yu et al., 2020, Algorithm 1), vector by vector."""
    changed = []
    for i, others in enumerate(order):
        mine = gradients[i].clone()
        for j in others:
            along = mine @ gradients[j]
            if along < 0:
                mine -= along / (gradients[j] @ gradients[j]) * gradients[j]
        changed.append(mine)
    return torch.stack(changed).mean(dim=0)


def gradvac_by_hand(gradients: list[Tensor], order: list[list[int]], targets: dict[tuple[int, int], float]) -> Tensor:
    """The mean of the gradients turned to their targets (Wang et al., 2021, Algorithm 1); the targets move on."""
    changed = []
    for i, others in enumerate(order):
        mine = gradients[i].clone()
        for j in others:
            cosine = float(mine @ gradients[j] / (mine.norm() * gradients[j].norm()))
            target = targets.get((i, j), 0.0)
            if cosine < target:
                a = mine.norm() * (target * (1 - cosine**2) ** 0.5 - cosine * (1 - target**2) ** 0.5)
                mine = mine + a / (gradients[j].norm() * (1 - target**2) ** 0.5) * gradients[j]
                turned = float(mine @ gradients[j] / (mine.norm() * gradients[j].norm()))
                assert turned == pytest.approx(target, abs=1e-9), "the equation's purpose"
            targets[i, j] = (1 - BETA) * target + BETA * cosine
        changed.append(mine)
    return torch.stack(changed).mean(dim=0)


def drawn(tasks: int, seed: int, size: int = 30) -> Tensor:
    """Gradients that pull together and apart, of different lengths."""
    random = torch.Generator().manual_seed(seed)
    common = torch.randn(size, dtype=torch.float64, generator=random)
    own = torch.randn(tasks, size, dtype=torch.float64, generator=random)
    return own + common * torch.randn(tasks, 1, dtype=torch.float64, generator=random)


@given(st.integers(2, 5), seeds)
def test_pcgrad_is_the_plain_loop(tasks: int, seed: int) -> None:
    gradients, order = drawn(tasks, seed), orders(tasks, seed)
    halves = {"a": slice(0, 10), "b": slice(10, 30)}  # its projections are of the whole all the same
    products = {part: gradients[:, at] @ gradients[:, at].T for part, at in halves.items()}
    weights = PcGrad(TASKS[:1] * tasks).weights(products, order)
    found = torch.cat([weights[part] @ gradients[:, at] for part, at in halves.items()])
    assert torch.allclose(found, pcgrad_by_hand(list(gradients), order), atol=1e-12, rtol=1e-10)


@given(st.integers(2, 4), seeds)
def test_gradvac_is_the_plain_loop_part_by_part_and_step_by_step(tasks: int, seed: int) -> None:
    surgery, targets = GradVac(TASKS[:1] * tasks), {"a": {}, "b": {}}
    for step in range(4):
        gradients, order = {"a": drawn(tasks, seed + step), "b": drawn(tasks, seed - step)}, orders(tasks, seed, step)
        weights = surgery.weights({part: rows @ rows.T for part, rows in gradients.items()}, order)
        for part, rows in gradients.items():
            by_hand = gradvac_by_hand(list(rows), order, targets[part])
            assert torch.allclose(weights[part] @ rows, by_hand, atol=1e-9, rtol=1e-8)
    for part, pairs in targets.items():
        assert {pair: float(surgery.targets[part][pair]) for pair in pairs} == pytest.approx(pairs, abs=1e-12)
    again = GradVac(TASKS[:1] * tasks)
    again.restore(surgery.state())
    last = {part: rows @ rows.T for part, rows in gradients.items()}
    one, two = surgery.weights(last, order), again.weights(last, order)
    assert all(torch.equal(one[part], two[part]) for part in last)


@pytest.mark.parametrize("name", SURGERIES)
def test_gradients_that_agree_are_left_alone(name: str) -> None:
    rows = torch.tensor([[1.0, 0.5], [1.0, 1.0]], dtype=torch.float64)
    assert SURGERIES[name](TASKS[:2]).weights({"a": rows @ rows.T}, orders(2))["a"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", SURGERIES)
def test_a_task_without_a_gradient_conflicts_with_nothing(name: str) -> None:
    rows = torch.tensor([[1.0, 0.5], [0.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    surgery = SURGERIES[name](TASKS)
    assert surgery.weights({"a": rows @ rows.T}, orders(3))["a"].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("name", SURGERIES)
def test_where_any_part_is_not_finite_nothing_is_changed_and_no_target_moves(name: str) -> None:
    broken = torch.tensor([[torch.inf, 0.5], [1.0, 1.0]], dtype=torch.float64)
    sound = torch.tensor([[1.0, 0.5], [-1.0, 1.0]], dtype=torch.float64)
    surgery = SURGERIES[name](TASKS[:2])
    found = surgery.weights({"a": sound @ sound.T, "b": broken @ broken.T}, orders(2))
    assert {part: weights.tolist() for part, weights in found.items()} == {"a": [0.5, 0.5], "b": [0.5, 0.5]}
    assert surgery.state() == {}


def test_a_target_of_1_turns_nothing() -> None:
    rows, surgery = torch.tensor([[1.0, 0.5], [-1.0, 1.0]], dtype=torch.float64), GradVac(TASKS[:2])
    surgery.restore({"a": torch.ones(2, 2, dtype=torch.float64)})
    assert surgery.weights({"a": rows @ rows.T}, orders(2))["a"].tolist() == [0.5, 0.5]


def test_the_order_is_the_seeds_alone_and_no_task_meets_itself() -> None:
    assert orders(4, 1, "stage", 7) == orders(4, 1, "stage", 7)
    found = [orders(4, 1, "stage", step) for step in range(20)]
    assert len({str(order) for order in found}) > 10
    assert all(sorted([i, *others]) == [0, 1, 2, 3] for order in found for i, others in enumerate(order))


# A training step


def opposed() -> dict[str, Any]:
    """Tables that pull apart: to sts all pairs are alike, to quora half of the same ones are not."""
    return {**tables(), "sts": table_of(random_sentences(16, 2), [5.0] * 8)}


def stepped(factor: float = 1.0, **stage: Any) -> tuple[SurgeryModule, dict[str, Tensor]]:
    """A module after one backward pass, and name -> gradient."""
    module: Any = module_of(opposed(), SurgeryModule, batch_size=16, **stage)
    batches = batches_of(module)
    loss = module.training_step(batches, 0) * factor
    module.backward(loss)
    return module, {n: w.grad.clone() for n, w in module.model.named_parameters() if w.requires_grad}


def batches_of(module: SurgeryModule) -> list[Any]:
    rows = module.objective.setup.rows
    return [module.objective.batch(t, rows[t], np.ones(len(rows[t]), np.float32), "now") for t in TASKS]


def plain(module: SurgeryModule, loss_weights: dict[str, float]) -> dict[str, dict[str, Tensor]]:
    """Task -> name -> the gradient of its weighted mean loss, by a plain backward."""
    found = {}
    for batch in batches_of(module):
        module.zero_grad()
        total, count = module.objective.loss(batch, Place())
        (total / count * loss_weights.get(batch.task, 1.0)).backward()
        found[batch.task] = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
            for name, weight in module.model.named_parameters()
            if weight.requires_grad
        }
    return found


@pytest.mark.parametrize("name", SURGERIES)
def test_a_steps_gradient_is_that_of_plain_loops(name: str) -> None:
    loss_weights = {"sst": 3.0, "sts": 40.0}
    module, found = stepped(surgery=name, loss_weights=loss_weights)
    gradients, order = plain(module, loss_weights), orders(3, 3, "stage", 0)
    encoder = [weight for weight in found if weight.startswith("encoder.")]
    parts = EncoderWeights(module.model, "stage").parts
    of = {part: [n for n in encoder if part.replace("_", ".") in n] for part in parts}
    assert sorted(n for names in of.values() for n in names) == sorted(encoder)
    changed = False
    for names in [encoder] if name == "pcgrad" else of.values():
        rows = [torch.cat([gradients[task][n].flatten() for n in names]) for task in TASKS]
        by_hand = pcgrad_by_hand(rows, order) if name == "pcgrad" else gradvac_by_hand(rows, order, {})
        ours = torch.cat([found[n].flatten() for n in names])
        assert torch.allclose(ours, by_hand, atol=1e-13, rtol=1e-9)
        changed = changed or not torch.allclose(ours, torch.stack(rows).mean(dim=0), rtol=1e-3)
    assert changed, "some of these gradients conflict"
    for head in found.keys() - set(encoder):
        whole = sum(gradients[task][head] for task in TASKS)
        assert torch.allclose(found[head], whole / 3, atol=1e-15, rtol=1e-12), head


def test_the_loss_scale_of_half_precision_passes_through() -> None:
    _, one = stepped(surgery="pcgrad")
    _, scaled = stepped(1024.0, surgery="pcgrad")
    assert all(torch.allclose(scaled[name], 1024 * one[name], rtol=1e-9) for name in one)


def test_each_tasks_pass_has_dropout_of_its_own_that_the_step_repeats() -> None:
    runs = [stepped(surgery="pcgrad", smart={}, dropout=0.5)[1] for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


# Ranks


@pytest.mark.parametrize(("sent", "exact"), [(None, True), (torch.bfloat16, False)])
def test_gradients_are_averaged_task_by_task(sent: torch.dtype | None, exact: bool, monkeypatch: Any) -> None:
    words = torch.Size((6, 4))
    shared, own = [drawn(3, seed, 40) for seed in (1, 2)], [drawn(1, seed, 5)[0] for seed in (3, 4)]
    for rows in shared:
        rows[:, 8:20] = 0  # words in no batch
    want, want_own = (shared[0] + shared[1]) / 2, (own[0] + own[1]) / 2
    ranks, rank_of = Ranks(2), dict[int, int]()
    monkeypatch.setattr(dist, "all_reduce", lambda *given: ranks.all_reduce(rank_of[threading.get_ident()], *given))

    def one(rank: int) -> None:
        rank_of[threading.get_ident()] = rank
        average_over_ranks(shared[rank], own[rank], words, 2, sent)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(2)))
    assert torch.equal(shared[0], shared[1]) and torch.equal(own[0], own[1])
    close = {"rtol": 1e-12, "atol": 0.0} if exact else {"rtol": 2**-6, "atol": 2**-5}
    assert torch.allclose(shared[0], want, **close) and torch.allclose(own[0], want_own, **close)
    assert torch.equal(shared[0], want) == exact
    assert ranks.sent == [3 * 6, 3 * 3 * 4, 3 * 16 + 5], "of the words, the rows in use alone"


@pytest.mark.slow
def test_a_step_takes_a_batch_of_each_task(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, tasks=TASKS, surgery="pcgrad", max_examples=17, epochs=2, precision="bf16-mixed", fused=True
    )
    assert run(job)
    state = newest(job).state
    assert state.position.steps == 2 * 2  # of six batches, three a step
    assert state.examples > 4 * 3 * 8
