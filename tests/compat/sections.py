"""The page's sections in their order: a table a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.compat import experiments, files, models, recipes, surroundings, tokenizers
from tests.compat.table import Row

SECTIONS: Mapping[str, Sequence[Row]] = {
    "Tables": files.ROWS,
    "Models": models.ROWS,
    "Tokenizers": tokenizers.ROWS,
    "Surroundings": surroundings.ROWS,
    "Recipes and options": recipes.ROWS,
    "Experiments": experiments.ROWS,
}
