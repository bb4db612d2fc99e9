"""The cluster on a lab, and the undisturbed run: once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster.lab import missing
from tests.cluster.onprem import Job, OnPrem, brought_up
from tests.faults.harness import RANKS
from tests.faults.rows import LAB, Row, record


@pytest.fixture(scope="session")
def cluster() -> Iterator[OnPrem]:
    """Up, with a worker a host; afterwards nothing is left of it."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    with brought_up(RANKS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def undisturbed(cluster: OnPrem) -> Job:
    job = Job(cluster, "undisturbed")
    job.start()
    job.complete()
    assert job.fed().repeated() == 0
    assert {cluster.host_of(trace) for trace in job.traces()} == set(cluster.lab.hosts), "one rank a host"
    return job


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A test that failed leaves no job that takes the hosts from the next one."""
    yield
    for job in Job.started:
        job.end()
    Job.started.clear()


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes a row of the table, under the test's name."""

    def tell(job: Job, fault: str, outcome: str, seconds: float | None = None, equal: str = "equal") -> None:
        record(Row(request.node.name, fault, outcome, seconds, job.fed().repeated(), equal), LAB)

    return tell
