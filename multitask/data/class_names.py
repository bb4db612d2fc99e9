"""Names of classes that lie beside a data file, or one folder up: in what datasets writes into its folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from multitask.data.arrow_files import names_in
from multitask.data.formats import WEB
from multitask.errors import UserError
from multitask.storage.storage import Storage, file_at

FILES = ("dataset_info.json", "dataset_infos.json")  # the latter of old


def names_beside(uri: str, column: str) -> Sequence[str]:
    """The names of the column's classes by number; none where nothing lies there that says them.

    Raises UserError where the file's configurations call them otherwise.
    """
    if uri.startswith(WEB):
        return ()
    folder = file_at(uri)[0]
    places = [folder, file_at(folder.uri)[0]] if folder.is_local else [folder]
    said = next((found for place in places for name in FILES if (found := _read(place, name))), None)
    found = {tuple(names) for info in _infos(said) if (names := names_in(info.get("features")).get(column))}
    if len(found) > 1:
        raise UserError(
            f"{uri}: {FILES[0]} beside it names the classes of {column} in {len(found)} ways; keep one of them"
        )
    return found.pop() if found else ()


def _read(folder: Storage, name: str) -> Any:
    try:
        return json.loads(folder.read_bytes(name))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def _infos(said: Any) -> list[dict[str, Any]]:
    """The descriptions in datasets' dataset_infos.json: the file is one description, or one a configuration."""
    if not isinstance(said, dict):
        return []
    return [said] if "features" in said else [info for info in said.values() if isinstance(info, dict)]
