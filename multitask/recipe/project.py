"""A project folder to begin with: a recipe, its data, and a README (multitask/assets/project)."""

from __future__ import annotations

import re
import shutil
from importlib import resources
from pathlib import Path

from multitask.errors import UserError
from multitask.recipe.stages import NAME

PLACEHOLDER = "NAME"  # what the project's name stands for in its texts


def make_project(folder: str) -> list[str]:
    """Makes the folder; returns the names of what is in it. Raises UserError where it is there already, or its
    name cannot be a recipe's."""
    place = Path(folder)
    name = place.resolve().name
    if not re.fullmatch(NAME, name):
        raise UserError(f"new '{folder}': the folder's name is the recipe's: letters, digits, '.', '_' and '-'")
    if place.exists():
        raise UserError(f"new '{folder}': is there already; name a folder that is not")
    shutil.copytree(str(resources.files("multitask") / "assets" / "project"), place)
    for text in (place / "recipe.yaml", place / "README.md"):
        text.write_text(text.read_text(encoding="utf-8").replace(PLACEHOLDER, name), encoding="utf-8")
    return sorted(found.name for found in place.iterdir())
