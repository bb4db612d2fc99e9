"""Modules of a user's own, written for a test into the working directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from multitask.tasks import imported


@contextmanager
def own_modules(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> Iterator[Path]:
    """The folder as the working directory with modules of these texts, by name, that nothing has named yet."""
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    monkeypatch.setattr(imported, "_trusted", set())
    monkeypatch.setattr(imported, "_taken", {})
    yield folder
    for name in texts:
        sys.modules.pop(name, None)
