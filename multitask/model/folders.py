"""A model's folder at any fsspec URI, read whole file by whole file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from multitask.errors import UserError
from multitask.storage.sealed import Damaged, read_document
from multitask.storage.storage import Storage
from multitask.storage.uris import join

# What an export of ours adds to a folder: what model.json says in a bundle and, as `files`, the other files' checksums.
FACTS = "minibert.json"


class Folder:
    """A directory at a URI. What is not there is None or a UserError that names it; see each method.

    checksums: path -> sha256, hexadecimal, which the files have to have; taken from FACTS where not given.
    """

    def __init__(self, uri: str, checksums: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.storage = Storage(self.uri)
        self._given = checksums

    @cached_property
    def facts(self) -> dict[str, Any] | None:
        """What an export of ours says; None in another's folder. Raises Damaged."""
        try:
            return read_document(self.storage, FACTS)
        except (FileNotFoundError, NotADirectoryError):
            return None

    @cached_property
    def checksums(self) -> Mapping[str, str]:
        if self._given is not None:
            return self._given
        found = (self.facts or {}).get("files")  # exports of older builds have none
        return found if isinstance(found, dict) else {}

    def at(self, name: str) -> str:
        return join(self.uri, name)

    def below(self, path: str) -> Folder:
        """The folder of that path in this one, itself for the empty path."""
        if not path:
            return self
        inside = {name: of for name, of in self.checksums.items() if name.startswith(f"{path}/")}
        return Folder(self.at(path), {name.removeprefix(f"{path}/"): of for name, of in inside.items()})

    def has(self, name: str) -> bool:
        return self.storage.exists(name)

    def find(self, name: str) -> bytes | None:
        """The file's bytes, or None where there is no such file. Raises Damaged in a folder of an export of ours where
        they are not as exported, or the file was not there then."""
        try:
            data = self.storage.read_bytes(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if self.checksums and hashlib.sha256(data).hexdigest() != self.checksums.get(name):
            raise Damaged(
                f"{self.at(name)}: damaged: not what minibert export wrote; where it was changed on purpose, remove "
                f"{FACTS}: the folder then is read as anybody's model"
            )
        return data

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
