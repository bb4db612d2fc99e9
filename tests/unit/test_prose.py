"""Docstrings stand alone: none begins by leaning on its neighbour, and the modules that they name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("multitask", "lightning_modules", "ray_jobs")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LEANS = re.compile(r"(The same|The other|The way back|Of|Those|These|And|As|Also|Likewise|Else|But|Or|So)\b")
FIELDS = re.compile(r"[a-z_]+(, [a-z_]+)*: ")  # what something is comes before what its fields or arguments are
AT_A_NEIGHBOUR = re.compile(r"\b(likewise|as above|see above|the one above)\b", re.IGNORECASE)
MODULE = re.compile(r"(?<![\w./<-])[\w/]+\.py\b")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, those under a class's fields among them."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        for place, entry in enumerate(body if isinstance(body, list) else []):
            text = entry.value.value if isinstance(entry, ast.Expr) and isinstance(entry.value, ast.Constant) else None
            of_a_field = place and isinstance(body[place - 1], ast.AnnAssign | ast.Assign)
            if isinstance(text, str) and documented and (place == 0 or of_a_field):
                yield entry.lineno, text


def test_the_walker_finds_docstrings() -> None:
    tree = ast.parse('"""A"""\nclass B:\n  """C"""\n  d: int = 0\n  """E"""\n  def f(self):\n    """G"""\n    "no"\n')
    assert sorted(docstrings(tree)) == [(1, "A"), (3, "C"), (5, "E"), (7, "G")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_stand_alone(path: Path) -> None:
    for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        leaning = LEANS.match(text) or FIELDS.match(text) or AT_A_NEIGHBOUR.search(text)
        assert not leaning, f"{path.relative_to(ROOT)}:{line}: '{leaning[0]}' leans on a neighbour"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_that_docstrings_name_exist(path: Path) -> None:
    known = [f"/{file.relative_to(ROOT).as_posix()}" for file in FILES]
    beyond = ("prepare_submit.py", "multitask_classifier.py", "spot_notice.py")  # others', and one on spot nodes
    for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        for name in set(MODULE.findall(text)) - set(beyond):
            assert any(file.endswith(f"/{name}") for file in known), f"{path.relative_to(ROOT)}:{line}: {name}"
