"""`average:` in a stage: running means of its weights, against torch's and cases by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lightning_modules.module import StageModule
from multitask.errors import UserError
from multitask.model.averages import Average, Ema, LastEpochs, average_of
from multitask.recipe.checks import build_recipe
from tests.helpers import module_of, random_sentences, recipe_tree, table_of


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 2)).to(dtype)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters()}


def trained(average: Average, model: nn.Module, steps: int, per_epoch: int = 4, first: int = 0) -> None:
    """Takes steps of plain descent, each of which the average is told of."""
    for step in range(first, first + steps):
        inputs = torch.randn(3, 7, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
        model.zero_grad()
        model(inputs).square().sum().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.05 * weight.grad
        average.stepped(weights(model), (step + 1) % per_epoch == 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_ema_is_that_of_torch_to_the_bit(decay: float, dtype: torch.dtype) -> None:
    class Both:
        """Ours, and torch's beside it."""

        def __init__(self, model: nn.Module) -> None:
            self.model, self.ours = model, Ema(decay)
            self.torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

        def stepped(self, now: Any, epoch_ended: bool) -> None:
            self.ours.stepped(now, epoch_ended)
            self.torchs.update_parameters(self.model)

    model = net(dtype)
    both: Any = Both(model)
    trained(both, model, 9)
    found, expected = both.ours.mean(), weights(both.torchs.module)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(found["0.weight"], model[0].weight)  # type: ignore[index]


def test_ema_of_16_bits_is_of_32() -> None:
    model, average = net(torch.bfloat16), Ema(0.999)
    trained(average, model, 3)
    before = average.mean()["0.weight"].clone()
    trained(average, model, 1, first=3)
    assert before.dtype == torch.float32 and not torch.equal(before, average.mean()["0.weight"])


def test_the_last_epochs_mean_is_of_their_last_weights() -> None:
    model, average, ends = net(), LastEpochs(3), []
    assert average.mean() == {}
    for epoch in range(5):
        trained(average, model, 4, first=4 * epoch)
        ends.append({name: value.clone() for name, value in weights(model).items()})
        last, found = ends[-3:], average.mean()
        for name in found:
            exact = torch.stack([end[name].double() for end in last]).mean(dim=0)
            torch.testing.assert_close(found[name], exact.float(), rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"ema": 0.9, "last": None}, {"ema": None, "last": 2}])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_restored_average_goes_on_to_the_bit(settings: dict[str, Any], stop: int) -> None:
    model, whole, first, second = net(), *(average_of(**settings) for _ in range(3))
    trained(whole, model, 12)
    model = net()
    trained(first, model, stop)
    second.restore({name: value.clone() for name, value in first.state().items()})
    trained(second, model, 12 - stop, first=stop)
    assert second.mean().keys() == whole.mean().keys() != set()
    assert all(torch.equal(second.mean()[name], value) for name, value in whole.mean().items())


def stage_module(**stage: Any) -> StageModule:
    return module_of({"sst": table_of(random_sentences(4), [0, 1, 2, 3], per=1)}, **stage)


def test_the_weights_come_back_after_they_were_judged() -> None:
    module = stage_module(average={"ema": 0.5})
    own = module.model.trained_weights()
    before = {name: value.clone() for name, value in own.items()}
    assert module._average
    module._average.stepped({name: value + 1 for name, value in own.items()}, False)
    with pytest.raises(KeyError), module.judged():
        assert all(torch.equal(value, before[name] + 1) for name, value in module.model.trained_weights().items())
        raise KeyError("a measurement that fails")
    assert all(torch.equal(value, before[name]) for name, value in module.model.trained_weights().items())
    module.settle()
    assert all(torch.equal(value, before[name] + 1) for name, value in module.model.trained_weights().items())


def test_without_an_average_nothing_is_copied() -> None:
    module = stage_module()
    at = {name: value.data_ptr() for name, value in module.model.trained_weights().items()}
    with module.judged():
        assert at == {name: value.data_ptr() for name, value in module.model.trained_weights().items()}
    assert module._average is None


@pytest.mark.parametrize(
    ("average", "said"),
    [
        ({}, "exactly one of ema and last"),
        ({"ema": 0.9, "last": 3}, "exactly one of ema and last"),
        ({"ema": 1.0}, "less than 1"),
        ({"last": 1}, "greater than or equal to 2"),
        ({"decay": 0.9}, "unknown key; known keys: ema, last"),
    ],
)
def test_a_mean_that_is_none_is_refused(average: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=r"stages\.para\.average") as error:
        build_recipe(recipe_tree(average=average), "test")
    assert said in str(error.value)


def test_a_stage_without_an_average_is_the_stage_that_it_was() -> None:
    plain, averaged = (build_recipe(recipe_tree(average=some), "test").stages[0] for some in (None, {"ema": 0.9}))
    assert "average" not in plain.content()
    assert averaged.content() == {**plain.content(), "average": {"ema": 0.9, "last": None}}
