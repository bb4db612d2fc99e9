"""`pytest --budget SECONDS`, by which CI notices that its tests have become slow."""

from __future__ import annotations

import pytest

from tests import conftest

pytest_plugins = "pytester"


@pytest.mark.parametrize(("budget", "fails"), [("0.001", True), ("1e6", False)])
def test_tests_that_take_half_as_long_again_fail(pytester: pytest.Pytester, budget: str, fails: bool) -> None:
    pytester.makepyfile("def test_nothing():\n    pass\n")
    done = pytester.inline_run("--budget", budget, plugins=[conftest])
    assert done.ret == (pytest.ExitCode.TESTS_FAILED if fails else pytest.ExitCode.OK)
