"""What a user's own code adds to a table of names: `package.module:Name` in a recipe stands for what it imports."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from multitask.errors import UserError, near

Thing = TypeVar("Thing")
TRUSTED = "MINIBERT_OWN_CODE"  # in the environment: modules that files may name, with commas between them
PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


class Table(dict[str, Thing]):
    """Name -> what it names: those built in, by their items, and any `package.module:Name`, which is imported.

    adopt: what was found there, and its name -> what the table holds; it raises TypeError, with what would be valid,
    for another thing. Nothing that was found is called before.
    """

    def __init__(self, built_in: dict[str, Thing], adopt: Callable[[Any, str], Thing]) -> None:
        super().__init__(built_in)
        self.adopt = adopt

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or is_path(name)

    def __missing__(self, name: str) -> Thing:
        if not is_path(name):
            raise KeyError(name)
        try:
            return self.adopt(imported(name), name)
        except TypeError as error:
            raise UserError(f"'{name}': {error}") from error


def is_path(name: object) -> bool:
    """Whether a name is of the form `package.module:Name`."""
    return isinstance(name, str) and PATH.fullmatch(name) is not None


_trusted: set[str] = set()
_imported: dict[str, str] = {}  # module -> the sha256 of its file when it was imported last
_taken: dict[str, str | None] = {}  # import path -> its module's file


def trust(names: Iterable[str | None]) -> None:
    """Lets those of the names that are import paths be imported: what the user's own recipe or command names, never
    what only a bundle says."""
    _trusted.update(name.split(":")[0] for name in names if name and is_path(name))


def may_be_imported(path: str) -> bool:
    """Whether the user's own recipe, command or environment names the module of an import path."""
    module = path.split(":")[0]
    return module in _trusted or module in os.environ.get(TRUSTED, "").replace(" ", "").split(",")


def imported(path: str) -> Any:
    """What lies at `package.module:Name`, of what is installed or below the working directory. Raises UserError, also
    where nothing that the user has named lets it be imported."""
    module, name = path.split(":")
    if not may_be_imported(path):
        raise UserError(f"'{path}': code that no recipe of this run names; to have it imported: {TRUSTED}={module}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:  # a console script's path begins with its own folder
        sys.path.append(str(Path.cwd()))
    try:
        found = _fresh(importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise UserError(f"'{path}': no module {error.name}, neither installed nor below {Path.cwd()}") from error
    except Exception as error:
        raise UserError(f"'{path}': importing {module} failed: {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        raise UserError(f"'{path}': {module} has no {name}{near(name, vars(found))}")
    _taken[path] = getattr(found, "__file__", None)
    return getattr(found, name)


def read_only(values: Any) -> Any:
    """A view of a NumPy array, for a user's function, which cannot change what others go by too."""
    found = values.view()
    found.flags.writeable = False
    return found


def files() -> dict[str, list[str]]:
    """File -> the import paths that were imported from it, in this process."""
    found: dict[str, list[str]] = {}
    for path, file in _taken.items():
        if file:
            found.setdefault(file, []).append(path)
    return found


def _fresh(module: ModuleType) -> ModuleType:
    """The module as its file is now: imported again where that was edited since, in a notebook say, so that what runs
    is what the fingerprint is of."""
    file = getattr(module, "__file__", None)
    if file is None:
        return module
    now = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if _imported.setdefault(module.__name__, now) != now:
        _imported[module.__name__] = now
        return importlib.reload(module)
    return module


def code_of(names: Iterable[str | None]) -> dict[str, str]:
    """Import paths among some names -> the sha256 of their modules' files."""
    return {name: _module_sha256(name) for name in sorted({name for name in names if name and is_path(name)})}


def _module_sha256(path: str) -> str:
    imported(path)
    file = getattr(sys.modules[path.split(":")[0]], "__file__", None)
    if file is None:  # a notebook's, say
        raise UserError(f"'{path}': its module has no file, which runs could be told apart by; write it into one")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
