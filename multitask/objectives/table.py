"""Every objective, by the name that a recipe calls it."""

from __future__ import annotations

from multitask.objectives.base import Objective
from multitask.objectives.completion import Completion
from multitask.objectives.contrastive import Contrastive
from multitask.objectives.mlm import MaskedLanguage
from multitask.objectives.ranking import MultipleNegatives
from multitask.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {
    "supervised": Supervised,
    "mlm": MaskedLanguage,
    "ranking": MultipleNegatives,
    "completion": Completion,
    "contrastive": Contrastive,
}
DEFAULT = next(iter(OBJECTIVES))
