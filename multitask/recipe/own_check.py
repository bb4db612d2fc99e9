"""`minibert check`: what a user's own code at an import path is, and what of that it keeps to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from multitask.errors import UserError
from multitask.model.heads import HEADS, HeadSpec
from multitask.objectives.base import Objective
from multitask.objectives.losses import LOSSES
from multitask.recipe.agreements import Agreement, of_head, of_loss, of_measure
from multitask.recipe.objective_agreements import of_objective
from multitask.recipe.sampler_agreements import of_sampler
from multitask.tasks.imported import imported, is_path, trust


def check_own(path: str) -> list[Agreement]:
    """What the head, loss, measure, objective or sampler at `package.module:Name` keeps to, and what not. Raises
    UserError where there is none of them."""
    if not is_path(path):
        raise UserError(f"'{path}': not of the form package.module:Name")
    trust([path])
    found = imported(path)
    torch.manual_seed(1)
    if isinstance(found, type) and not issubclass(found, nn.Module | Objective):
        made = "a head, loss, measure, objective or sampler; what a callback does is seen in a run alone"
        raise UserError(f"'{path}': it is the class {found.__name__}; valid: {made}")
    if isinstance(found, type) and issubclass(found, Objective):
        return list(of_objective(path))
    if isinstance(found, HeadSpec) or (isinstance(found, type) and issubclass(found, nn.Module)):
        return list(of_head(path, HEADS[path]))
    taken = len(inspect.signature(found).parameters) if inspect.isfunction(found) else None
    return list(BY_PARAMETERS.get(taken, _of_loss)(path))


def _of_loss(path: str) -> Iterator[Agreement]:
    return of_loss(LOSSES[path])


# What a function is, by how much it is given: (epoch), or (predictions, labels); else (outputs, labels, weights, ...).
BY_PARAMETERS: dict[int | None, Callable[[str], Iterator[Agreement]]] = {1: of_sampler, 2: of_measure}


def summary(found: list[Agreement]) -> dict[str, Any]:
    """What was tried, as JSON."""
    return {"kept": all(one.kept for one in found), "agreements": [vars(one) for one in found]}
