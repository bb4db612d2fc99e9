"""Fixtures of the fault tests: the undisturbed run, an experiment on S3, the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.faults.harness import Run
from tests.faults.rows import Row, record
from tests.s3 import S3


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A test that failed leaves no driver that takes the cores from the next one."""
    yield
    for run in Run.started:
        run.end()
    Run.started.clear()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.start()
    run.complete()
    assert run.fed().repeated() == 0
    return run


@pytest.fixture
def on_s3(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """An experiment on a sound S3 endpoint, with the storage's ordinary patience."""
    s3_server.heal()
    s3_server.new_bucket()
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return Run(tmp_path, f"{s3_server.uri}/runs", s3_server.environment)


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes a row of the table, under the test's name."""

    def tell(run: Run, fault: str, outcome: str, seconds: float | None = None, equal: str = "equal") -> None:
        record(Row(request.node.name, fault, outcome, seconds, run.fed().repeated(), equal))

    return tell
