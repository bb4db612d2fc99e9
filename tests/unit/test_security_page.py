"""docs/security.md names a test for each guard: they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
TESTS = sorted(set(re.findall(r"`((?:unit|integration|cluster)/\w+\.py::\w+)`", PAGE)))


@pytest.mark.parametrize("named", TESTS)
def test_the_test_of_a_guard_is_there(named: str) -> None:
    file, _, name = named.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()


def test_every_guard_has_a_test_and_names_code_that_is_there() -> None:
    rows = [
        line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| a bad one"))
    ]
    assert len(rows) > 25 and all("::test_" in row.split("|")[3] for row in rows)
    for file in re.findall(r"`((?:multitask|ray_jobs)/[\w/.]*)`", PAGE):
        assert (ROOT / file).exists(), file
