"""Newer Pythons that lie on this machine compile every file, without a warning."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEWER = (12, 13, 14)
PACKAGES = ("multitask", "lightning_modules", "ray_jobs", "configs", "cluster", "benchmarks", "tools", "tests")
COMPILED = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
for folder in sys.argv[1:]:
    for file in Path(folder).rglob("*.py"):
        compile(file.read_text(encoding="utf-8"), str(file), "exec")
"""


def found(minor: int) -> str | None:
    """The command of that Python, on the PATH or among pyenv's."""
    named = shutil.which(f"python3.{minor}")
    places = [*([named] if named else []), *map(str, Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))]
    asked = (subprocess.run([place, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
             for place in places)  # fmt: skip
    return next((place for place, said in zip(places, asked, strict=True) if said.stdout.strip() == str(minor)), None)


@pytest.mark.parametrize("minor", NEWER)
def test_a_newer_python_compiles_every_file_without_a_warning(minor: int) -> None:
    python = found(minor)
    if python is None and sys.version_info[1] != minor:
        pytest.skip(f"no Python 3.{minor} here")
    done = subprocess.run(
        [python or sys.executable, "-c", COMPILED, *PACKAGES], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
