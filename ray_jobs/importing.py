"""Heavy imports, made lighter: without a garbage collection amid them, and without what nobody here asks of them."""

from __future__ import annotations

import gc
import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NEEDED = ("numpy", "torch", "torchmetrics")  # by torchmetrics, for what Lightning asks of it


@contextmanager
def uncollected() -> Iterator[None]:
    """Imports within it are not interrupted by a collection, nor looked at by later ones.

    Garbage that there is already goes first, or it would stay for good: an earlier run's models, where a process runs
    several.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_torchmetrics() -> None:
    """Imports torchmetrics, for Lightning, which asks it for two base classes.

    By itself it imports for its scores of texts, sounds and plots what of transformers, scipy and matplotlib is
    installed: half of the seconds that `import pytorch_lightning` takes. It is told here, for a process of the
    project's own, that none of them is. Does nothing where torchmetrics was imported before.
    """
    if "torchmetrics" in sys.modules:
        return
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    requirement_cache, package_available = imports.RequirementCache, imports.package_available

    def needed(requirement: str = "", module: str = "") -> Any:
        name = re.split(r"\W", requirement or module)[0]
        return requirement_cache(requirement or None, module or None) if name in NEEDED else False

    imports.RequirementCache, imports.package_available = needed, NEEDED.__contains__
    try:
        importlib.import_module("torchmetrics")
    finally:
        imports.RequirementCache, imports.package_available = requirement_cache, package_available
