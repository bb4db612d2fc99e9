"""Running means of the weights that a stage trains. They are what is measured and kept of it; training itself goes on
from the weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]  # name -> weight


class Average(Protocol):
    """A mean over a course of weights. What it holds of them is copies."""

    def stepped(self, weights: Weights, epoch_ended: bool) -> None:
        """Takes the weights after an update; epoch_ended: whether that was its epoch's last one."""
        ...

    def mean(self) -> dict[str, Tensor]:
        """Name -> averaged weight; empty before there is anything to average."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` makes this average again, to the bit."""
        ...

    def restore(self, tensors: Weights) -> None:
        """Puts back what `state` gave."""
        ...


class Ema:
    """An exponential moving average by update: e <- decay * e + (1 - decay) * w, which begins as the weights after the
    first update, as torch.optim.swa_utils.AveragedModel does. It is of float32 at least."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._mean: dict[str, Tensor] = {}

    def stepped(self, weights: Weights, epoch_ended: bool) -> None:
        if not self._mean:
            self._mean = {name: _wide(weight).clone() for name, weight in weights.items()}
            return
        self._mean = {name: self._mean[name].to(weight.device) for name, weight in weights.items()}  # after a resume
        means, now = list(self._mean.values()), [_wide(weight) for weight in weights.values()]
        torch._foreach_lerp_(means, now, 1 - self.decay)

    def mean(self) -> dict[str, Tensor]:
        return dict(self._mean)

    def state(self) -> dict[str, Tensor]:
        return dict(self._mean)

    def restore(self, tensors: Weights) -> None:
        self._mean = {name: value.clone() for name, value in tensors.items()}


class LastEpochs:
    """The plain mean of the weights at the ends of the last `count` epochs, or of as many as there were. The copies lie
    in main memory; they are added up in float64, the oldest first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._epochs: list[dict[str, Tensor]] = []

    def stepped(self, weights: Weights, epoch_ended: bool) -> None:
        if epoch_ended:
            copied = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}
            self._epochs = [*self._epochs, copied][-self.count :]

    def mean(self) -> dict[str, Tensor]:
        return {name: self._mean_of(name) for name in (self._epochs[0] if self._epochs else ())}

    def _mean_of(self, name: str) -> Tensor:
        total = self._epochs[0][name].double()
        for epoch in self._epochs[1:]:
            total = total + epoch[name]
        return (total / len(self._epochs)).to(self._epochs[0][name].dtype)

    def state(self) -> dict[str, Tensor]:
        return {f"{at}/{name}": value for at, epoch in enumerate(self._epochs) for name, value in epoch.items()}

    def restore(self, tensors: Weights) -> None:
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            at, _, name = key.partition("/")
            found.setdefault(int(at), {})[name] = value
        self._epochs = [found[at] for at in sorted(found)]


def average_of(ema: float | None, last: int | None) -> Average:
    """The average that one of the two numbers asks for, of nothing yet: an Ema's decay, or a count of LastEpochs."""
    assert (ema is None) != (last is None), "recipe/settings.py lets only one of them in"
    return LastEpochs(last) if last is not None else Ema(ema or 0.0)


def _wide(weight: Tensor) -> Tensor:
    """At least float32: in 16 bits an average would not move."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
