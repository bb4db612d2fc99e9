"""Every objective, by the name that a recipe calls it."""

from __future__ import annotations

from typing import Any

from multitask.objectives.base import Objective
from multitask.objectives.completion import Completion
from multitask.objectives.contrastive import Contrastive
from multitask.objectives.mlm import MaskedLanguage
from multitask.objectives.ranking import MultipleNegatives
from multitask.objectives.supervised import Supervised
from multitask.tasks.imported import Table
from multitask.tasks.schema import Strict

BUILT_IN: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "mlm": MaskedLanguage,
    "ranking": MultipleNegatives,
    "completion": Completion,
    "contrastive": Contrastive,
}
DEFAULT = next(iter(BUILT_IN))


def _adopted(found: Any, name: str) -> type[Objective]:
    """A user's own subclass of Objective."""
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise TypeError(f"it is {type(found).__name__}; valid: a class of multitask.objectives.base.Objective")
    if found.loss is Objective.loss:
        raise TypeError(f"{found.__name__}.loss is missing; valid: (batch, place) -> (sum, count)")
    if not (found.Options is None or (isinstance(found.Options, type) and issubclass(found.Options, Strict))):
        raise TypeError(f"{found.__name__}.Options: valid: None, or a class of multitask.tasks.schema.Strict")
    return found


OBJECTIVES: Table[type[Objective]] = Table(BUILT_IN, _adopted)
