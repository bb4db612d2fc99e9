"""Every row of docs/compat.md is true, and the page is what the rows make."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from multitask.errors import UserError
from ray_jobs.logs import PACKAGES
from tests.compat.sections import SECTIONS
from tests.compat.table import PAGE, Row, render

ROWS = [pytest.param(row, id=row.have) for rows in SECTIONS.values() for row in rows]


@pytest.mark.parametrize("row", ROWS)
def test_the_row_is_true(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING)
    if row.done == "refused":
        with pytest.raises(UserError) as refused:
            row.run(tmp_path)
        said = str(refused.value)
    else:
        row.run(tmp_path)
        said = " ".join(record.getMessage() for record in caplog.records if record.name.startswith(PACKAGES))
    assert row.says(said), f"said: {said!r}"


def test_the_page_is_what_the_rows_make() -> None:
    assert PAGE.read_text() == render(SECTIONS), "python -m tests.compat writes it"


def test_no_two_rows_are_of_the_same_thing() -> None:
    haves = [row.have for rows in SECTIONS.values() for row in rows]
    assert len(haves) == len(set(haves))
