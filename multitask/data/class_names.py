"""Names of classes that lie beside a data file, in the dataset_info.json that datasets writes into its folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from multitask.data.arrow_files import names_in
from multitask.data.formats import WEB
from multitask.errors import UserError
from multitask.storage import file_at

FILE = "dataset_info.json"


def names_beside(uri: str, column: str) -> Sequence[str]:
    """The names of the column's classes by number; none where nothing lies there that says them.

    Raises UserError where the file's configurations call them otherwise.
    """
    if uri.startswith(WEB):
        return ()
    try:
        said = json.loads(file_at(uri)[0].read_bytes(FILE))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return ()
    found = {tuple(names) for info in _infos(said) if (names := names_in(info.get("features")).get(column))}
    if len(found) > 1:
        raise UserError(f"{uri}: {FILE} beside it names the classes of {column} in {len(found)} ways; keep one of them")
    return found.pop() if found else ()


def _infos(said: Any) -> list[dict[str, Any]]:
    """The file is one description, or one a configuration."""
    if not isinstance(said, dict):
        return []
    return [said] if "features" in said else [info for info in said.values() if isinstance(info, dict)]
