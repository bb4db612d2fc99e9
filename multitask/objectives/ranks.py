"""Tensors of all ranks that train together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from multitask.objectives.base import Place


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over all ranks, in place and equal on each; the tensor itself where there is one rank."""
    if dist.is_available() and dist.is_initialized():
        device = tensor.device
        on_device = tensor.cuda() if dist.get_backend() == "nccl" else tensor
        dist.all_reduce(on_device)
        return on_device.to(device)
    return tensor


def least_over_ranks(value: int, device: torch.device) -> int:
    """The least of all ranks' values."""
    if dist.is_available() and dist.is_initialized():
        found = torch.tensor(value, device=device)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)
    return value


class Gather(torch.autograd.Function):
    """All ranks' tensors end to end, (P, ...) -> (ranks * P, ...); each rank gets the gradient of all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def from_all_ranks(tensor: Tensor, place: Place) -> Tensor:
    """(P, ...) of each rank, the same P on all, end to end in the order of ranks: (world * P, ...)."""
    gathered: Tensor = Gather.apply(tensor) if place.world > 1 else tensor  # type: ignore[no-untyped-call]
    return gathered


def padded_rows(tensor: Tensor, length: int) -> Tensor:
    """Zeros appended along the first dimension: gathering needs one shape on every rank."""
    return torch.cat((tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])))
