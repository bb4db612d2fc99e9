"""AdamW: the same path as torch's over 1,000 steps, exchangeable state; schedules by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from multitask import optim
from multitask.errors import UserError
from multitask.optim import SCHEDULES, AdamW, build_optimizer, decay_groups, schedule


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.LayerNorm = nn.LayerNorm(8)
        self.outer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(self.LayerNorm(self.inner(x)).tanh())
        return out


def net() -> Net:
    torch.manual_seed(0)
    return Net()


SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6}


def train(model: Net, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        loss = (model(x).squeeze(-1) - x.sin().sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ours(model: Net) -> torch.optim.Optimizer:
    return build_optimizer(model.named_parameters(), weight_decay=0.1, **SETTINGS)


def theirs(model: Net) -> torch.optim.Optimizer:
    return torch.optim.AdamW(decay_groups(model.named_parameters(), 0.1), **SETTINGS)


def fused(model: Net) -> torch.optim.Optimizer:
    return build_optimizer(model.named_parameters(), weight_decay=0.1, fused=True, **SETTINGS)


def difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_equals_torch_over_1000_steps() -> None:
    """On the same gradients, both groups: training would feed rounding back into the gradients."""
    mine, reference = net(), net()
    optimizers = ours(mine), theirs(reference)
    start = copy.deepcopy(mine)
    for step in range(1000):
        random = torch.Generator().manual_seed(step)
        for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=random) * 10.0 ** (step % 5 - 3)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert difference(mine, reference) < 1e-6
    assert difference(mine, start) > 0.1


def test_training_equals_torch_in_float64() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        mine, reference = net(), net()
        train(mine, ours(mine), range(60))
        train(reference, theirs(reference), range(60))
    finally:
        torch.set_default_dtype(torch.float32)
    assert difference(mine, reference) < 1e-9


def test_fused_goes_the_same_way() -> None:
    mine, reference = net(), net()
    optimizer = fused(reference)
    assert isinstance(optimizer, torch.optim.AdamW)
    train(mine, ours(mine), range(20))
    train(reference, optimizer, range(20))
    assert difference(mine, reference) < 1e-4


def test_one_step_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([[2.0]]))
    optimizer = AdamW([parameter], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.5)
    parameter.grad = torch.tensor([[-3.0]])
    optimizer.step()
    # Decay first, 2 - 0.1 * 0.5 * 2; then the bias-corrected step, which is lr * sign(g) at the first update.
    assert parameter.item() == pytest.approx(1.9 + 0.1, abs=1e-6)
    state = optimizer.state[parameter]
    assert state["exp_avg"].item() == pytest.approx(-0.3) and state["exp_avg_sq"].item() == pytest.approx(0.009)


@pytest.mark.parametrize("other", [theirs, fused])
def test_state_goes_from_ours_to_torch_and_back(other) -> None:
    mine, reference = net(), net()
    first = ours(mine)
    train(mine, first, range(10))
    reference.load_state_dict(mine.state_dict())
    second = other(reference)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert {key for state in second.state_dict()["state"].values() for key in state} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    train(mine, first, range(10, 15))
    train(reference, second, range(10, 15))
    assert difference(mine, reference) < 1e-5

    back = ours(mine)
    back.load_state_dict(copy.deepcopy(second.state_dict()))
    mine.load_state_dict(reference.state_dict())
    train(mine, back, range(15, 20))
    train(reference, second, range(15, 20))
    assert difference(mine, reference) < 1e-5


def test_resumed_is_bit_equal() -> None:
    straight, stopped = net(), net()
    train(straight, ours(straight), range(20))
    optimizer = ours(stopped)
    train(stopped, optimizer, range(7))
    resumed = ours(stopped)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(stopped, resumed, range(7, 20))
    assert difference(straight, stopped) == 0.0


def test_parameters_without_gradient_stay_and_catch_up_later() -> None:
    mine, reference = net(), net()
    pairs = [(mine, ours(mine)), (reference, theirs(reference))]
    for model, optimizer in pairs:
        for parameter in model.outer.parameters():
            parameter.grad = None
        model.inner(torch.ones(1, 6)).sum().backward()
        optimizer.step()
        assert not optimizer.state.get(model.outer.weight)
        train(model, optimizer, range(3))
    assert difference(mine, reference) < 1e-6


def test_biases_and_layer_norms_do_not_decay_and_frozen_ones_are_left_out() -> None:
    model = net()
    model.inner.requires_grad_(False)
    groups = decay_groups(model.named_parameters(), 0.3)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    expected = [{model.outer.weight}, {model.outer.bias, model.LayerNorm.weight, model.LayerNorm.bias}]
    assert [set(group["params"]) for group in groups] == expected


def test_closure_is_called_with_gradients_on() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = AdamW([parameter])

    def closure() -> float:
        loss = (parameter * 2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert parameter.item() < 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_climbs_and_no_update_is_wasted(name: str) -> None:
    factor = schedule(name, 4, 20)
    assert [factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    factors = [factor(step) for step in range(4, 20)]
    assert all(value > 0 for value in factors) and factors == sorted(factors, reverse=True)


def test_decays_by_hand() -> None:
    assert [schedule("linear", 2, 10)(step) for step in (2, 6, 10, 11)] == [1.0, 0.5, 0.0, 0.0]
    assert schedule("cosine", 0, 8)(2) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedule("cosine", 0, 8)(8) == pytest.approx(0.0)
    assert schedule("constant", 0, 8)(800) == 1.0


def test_unknown_schedule_lists_the_known() -> None:
    with pytest.raises(UserError, match="unknown schedule 'step'; known schedules: constant, linear, cosine"):
        schedule("step", 0, 10)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_blocks_of_any_size_give_the_same_bits(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(block: int) -> list[Tensor]:
        monkeypatch.setattr(optim, "BLOCK", block)
        generator = torch.Generator().manual_seed(2)
        shapes = [(37, 53), (5,), (1,), (64, 65), (3,)]
        weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        weights.append(torch.nn.Parameter(torch.randn(8, 9, generator=generator).t()))  # not contiguous
        made = AdamW([{"params": weights[:3], "weight_decay": decay}, {"params": weights[3:]}], lr=1e-2)
        for _ in range(4):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            made.step()
        return [weight.detach() for weight in weights]

    whole = trained(1 << 40)
    for block in (64, 1000, 4096):
        assert all(torch.equal(one, other) for one, other in zip(trained(block), whole, strict=True))
