"""A model's folder at any fsspec URI, read whole file by whole file."""

from __future__ import annotations

import json
from typing import Any

from multitask.errors import UserError
from multitask.storage import Storage, join


class Folder:
    """A directory at a URI. What is not there is None or a UserError that names it; see each method."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.storage = Storage(self.uri)

    def at(self, name: str) -> str:
        return join(self.uri, name)

    def below(self, path: str) -> Folder:
        """The folder of that path in this one, itself for the empty path."""
        return Folder(self.at(path)) if path else self

    def has(self, name: str) -> bool:
        return self.storage.exists(name)

    def find(self, name: str) -> bytes | None:
        """The file's bytes, or None where there is no such file."""
        try:
            return self.storage.read_bytes(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises UserError, with what the directory holds, where there is no such file."""
        data = self.find(name)
        if data is None:
            raise UserError(f"{self.at(name)}: no such file; the directory holds: {self.names()}")
        return data

    def names(self) -> str:
        """What the directory holds, for an error: at most twenty names."""
        names = self.storage.list()
        return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "nothing"

    def find_json(self, name: str) -> dict[str, Any] | None:
        """The file's JSON object, or None where there is no such file."""
        data = self.find(name)
        return None if data is None else parse_json(data, self.at(name))


def parse_json(data: bytes, where: str, kind: type = dict) -> Any:
    """A JSON text of that kind. Raises UserError, naming `where`, for anything else."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(values, kind):
        valid = "a JSON object" if kind is dict else f"a {kind.__name__}"
        raise UserError(f"{where}: holds a {type(values).__name__}; valid: {valid}")
    return values
