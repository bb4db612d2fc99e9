"""AdamW from scratch (Loshchilov and Hutter, 2019), its parameter groups, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from multitask.errors import UserError, near

BLOCK = 1 << 17  # numbers that a CPU updates at a time
PartOf = Callable[[str], tuple[str, float]]  # a parameter's name -> its part, and the factor on the learning rate there


class Moved(NamedTuple):
    """A parameter, or some numbers of one, with what an update of them needs."""

    param: Tensor
    grad: Tensor
    mean: Tensor
    square: Tensor
    step: float
    """The negative step, over the mean's bias correction."""
    root: float
    """The root of the square's bias correction."""


def blocks(moved: list[Moved]) -> Iterator[list[Moved]]:
    """The numbers of some parameters, BLOCK of them at a time; a tensor that is not contiguous stays whole."""
    block: list[Moved] = []
    room = BLOCK
    for one in moved:
        tensors = one[:4]
        flat = all(tensor.is_contiguous() for tensor in tensors)
        parts = zip(*(torch.split(tensor.view(-1), BLOCK) for tensor in tensors), strict=True) if flat else [tensors]
        for param, grad, mean, square in parts:
            if block and param.numel() > room:
                yield block
                block, room = [], BLOCK
            block.append(Moved(param, grad, mean, square, one.step, one.root))
            room -= param.numel()
    if block:
        yield block


def _move(block: list[Moved], group: dict[str, Any]) -> None:
    """Updates some numbers."""
    params, grads, means, squares, steps, roots = (list(of) for of in zip(*block, strict=True))
    beta1, beta2 = group["betas"]
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_lerp_(means, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    below = torch._foreach_sqrt(squares)
    torch._foreach_div_(below, roots)
    torch._foreach_add_(below, group["eps"])
    torch._foreach_addcdiv_(params, means, below, steps)


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay and bias correction; its state dict is also torch.optim.AdamW's.

    With gradient g at step t:
        p <- p - lr * weight_decay * p
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient. closure: recomputes and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """One update of whole lists of tensors: a few kernel launches, not a few for each tensor; on a CPU a few for
        each block of numbers that stays in its cache from the first to the last of them."""
        states = [self._state_of(p) for p in params]
        torch._foreach_add_([state["step"] for state in states], 1.0)
        beta1, beta2 = group["betas"]
        moved = [
            Moved(
                p,
                p.grad,
                state["exp_avg"],
                state["exp_avg_sq"],
                -group["lr"] / (1 - beta1 ** float(state["step"])),
                math.sqrt(1 - beta2 ** float(state["step"])),
            )
            for p, state in zip(params, states, strict=True)
            if p.grad is not None
        ]
        for block in blocks(moved) if params[0].device.type == "cpu" else [moved]:
            _move(block, group)

    def _state_of(self, param: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if not state:
            state["step"] = torch.tensor(0.0)  # stays on the CPU: reading it must not wait for a device
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        return state


def decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float, part_of: PartOf | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; vectors (biases and LayerNorm) do not.

    part_of: where given, each part has two groups of its own, which say its name, `part`, and its `scale`.
    """
    parts: dict[tuple[str, float] | None, list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            parts.setdefault(part_of(name) if part_of else None, []).append(parameter)
    groups: list[dict[str, Any]] = []
    for part, trained in parts.items():
        facts = {"part": part[0], "scale": part[1]} if part else {}
        groups += [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay, **facts},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, **facts},
        ]
    return [group for group in groups if group["params"]]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> dict[str, float]:
    """Gives every group the learning rate times its scale. Returns the rates of the parts, by their names."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    return {group["part"]: group["lr"] for group in optimizer.param_groups if "part" in group}


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """The names of the optimizer's parameters in the model, in the order in which the optimizer numbers them."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names[id(weight)] for group in optimizer.param_groups for weight in group["params"]]


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What the optimizer keeps of each parameter, by the parameter's name and the optimizer's: NAME/exp_avg."""
    names = parameter_names(optimizer, model)
    return {
        f"{names[index]}/{key}": torch.as_tensor(value)
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Puts back what `moments` gave."""
    index = {name: at for at, name in enumerate(parameter_names(optimizer, model))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in kept.items():
        name, field = key.rsplit("/", 1)
        state.setdefault(index[name], {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    fused: bool = False,
    part_of: PartOf | None = None,
) -> torch.optim.Optimizer:
    """This module's AdamW, or torch's with its fused kernel; groups and state dict are equal. lr is per update.
    part_of: as decay_groups has it."""
    groups = decay_groups(named_parameters, weight_decay, part_of)
    if fused:
        optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
        # It could unscale the gradients of 16-bit training in its own kernel. Then nothing else sees them unscaled, and
        # Lightning refuses to clip them, under bf16 too, where nothing is scaled.
        optimizer._step_supports_amp_scaling = False
        return optimizer
    return AdamW(groups, lr=lr, betas=betas, eps=eps)


# The factor on the learning rate after warm-up, by the share of the remaining updates already made, 0..1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def schedule(name: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """Updates made so far -> the factor on the next one's learning rate.

    It climbs linearly to 1 over `warmup_steps` updates and then follows SCHEDULES[name], which ends after
    `total_steps`. No update within them has the factor 0, the first one neither (in Hugging Face's it has).
    Raises UserError for an unknown name.
    """
    if name not in SCHEDULES:
        known = f"{', '.join(SCHEDULES)}{near(name, SCHEDULES)}"
        raise UserError(f"schedule: unknown schedule '{name}'; known schedules: {known}")
    decay = SCHEDULES[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return decay(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return factor
