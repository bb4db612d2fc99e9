"""`minibert check`: what a user's own code at an import path is, and what of that it keeps to."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from multitask.errors import UserError
from multitask.model.heads import HEADS, HeadSpec
from multitask.objectives.base import Objective
from multitask.objectives.losses import LOSSES
from multitask.recipe.agreements import Agreement, of_head, of_loss, of_measure
from multitask.recipe.objective_agreements import of_objective
from multitask.tasks.imported import imported, is_path, trust


def check_own(path: str) -> list[Agreement]:
    """What the head, loss, measure or objective at `package.module:Name` keeps to, and what not. Raises UserError where
    there is none of them."""
    if not is_path(path):
        raise UserError(f"'{path}': not of the form package.module:Name")
    trust([path])
    found = imported(path)
    torch.manual_seed(1)
    if isinstance(found, type) and issubclass(found, Objective):
        return list(of_objective(path))
    if isinstance(found, HeadSpec) or (isinstance(found, type) and issubclass(found, nn.Module)):
        return list(of_head(path, HEADS[path]))
    return list(of_measure(path) if _is_measure(found) else of_loss(LOSSES[path]))


def _is_measure(found: Any) -> bool:
    """Whether a function is a measure: it has no weights, which a loss is given too."""
    return inspect.isfunction(found) and len(inspect.signature(found).parameters) == 2


def summary(found: list[Agreement]) -> dict[str, Any]:
    """What was tried, as JSON."""
    return {"kept": all(one.kept for one in found), "agreements": [vars(one) for one in found]}
