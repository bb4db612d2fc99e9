"""Faults of hosts, cables and the head under a job of three ranks, one a host, against an undisturbed one: weights,
optimizer moments and the ids that were fed, bit for bit. `make lab-test` runs them; root needed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tests.cluster.hosts import until
from tests.cluster.lab import ROOT
from tests.cluster.onprem import Job, OnPrem
from tests.faults.harness import RANKS, STAGES, random_step, same_as, same_batches

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
DARK = 60  # seconds without a link
SLOW = "10mbit"  # a step sends some 1 MB to each host
GRACE = 30  # seconds between a spot notice and the end
# An elastic run looks every ten minutes whether it can have more workers; a test cannot wait for that.
LOOKS_OFTEN = "from ray_jobs import cli, cluster; cluster.RESIZE_SECONDS = 20.0; cli.main()"
BOOT = 5  # seconds that a host is off


@pytest.fixture(autouse=True)
def all_there(cluster: OnPrem) -> Iterator[None]:
    """Whatever the test before did, every host is back when the next one begins."""
    for host in cluster.lab.hosts:
        if not host.is_on:
            host.on()
        host.plug()
    cluster.wait_for(RANKS)
    yield


def test_a_host_is_killed(cluster: OnPrem, undisturbed: Job, told: Callable[..., None]) -> None:
    job, (stage, step) = Job(cluster, "killed"), random_step("host")
    job.start()
    job.wait_for(stage, step)
    before, since = job.traces(), time.monotonic()
    cluster.workers[-1].off()
    time.sleep(BOOT)
    cluster.workers[-1].on()
    seconds = job.recovers(stage, since, before)
    job.complete()
    same_as(undisturbed, job)
    fault = f"a host's power is cut and back after {BOOT} s, {stage} step {step}"
    told(job, fault, "joined again by itself; the workers started again", seconds)


def test_a_link_is_down(cluster: OnPrem, undisturbed: Job, told: Callable[..., None]) -> None:
    job, (stage, step) = Job(cluster, "dark"), random_step("link")
    job.start()
    job.wait_for(stage, step)
    before, since = job.traces(), time.monotonic()
    cluster.workers[0].unplug()
    reached = job.furthest(stage) + 1  # one step may have been under way
    time.sleep(DARK)
    cluster.workers[0].plug()
    seconds = job.goes_on(stage, since, reached)
    job.complete()
    same_as(undisturbed, job)
    again = "the workers started again" if job.traces() - before else "the same workers went on"
    told(job, f"a host's link is down for {DARK} s, {stage} step {step}", again, seconds)


def test_a_spot_notice(cluster: OnPrem, undisturbed: Job, told: Callable[..., None]) -> None:
    """Metadata service -> spot_notice.py -> drain -> checkpoint; then the host is gone, and a new one in its place."""
    # Without other checkpoints than those at epochs' ends.
    job, (_, step), stage = Job(cluster, "spot", checkpoint_steps=None), random_step("spot"), STAGES[0]
    for host in cluster.workers:
        host.exec(watcher())
    job.start()
    job.wait_for(stage, step)
    host, before, since = cluster.workers[0], job.traces(), time.monotonic()
    end = datetime.now(UTC) + timedelta(seconds=GRACE)
    with slowed(cluster):  # or the run would be over before its host is gone
        host.notice.write_text(json.dumps({"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}))
        saved = until(lambda: "about to be taken away: saving now" in job.output(), "the notice is heard", GRACE)
        time.sleep(since + GRACE - time.monotonic())
        host.off()
    host.on()
    seconds = job.recovers(stage, since, before)
    job.complete()
    same_as(undisturbed, job)
    fault = f"EC2's spot notice, {GRACE} s, then the host's power is cut, {stage} step {step}"
    told(job, fault, f"saving began after {saved:.0f} s; went on with a new host", seconds)


@contextmanager
def slowed(cluster: OnPrem) -> Iterator[None]:
    """Steps take a second, since the head hears of the others' gradients slowly."""
    cluster.head.limit(SLOW)
    try:
        yield
    finally:
        cluster.head.limit(None)


def watcher() -> str:
    """The line of aws.yaml that starts the watcher."""
    commands = yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())["worker_start_ray_commands"]
    (command,) = [command for command in commands if "spot_notice.py" in command]
    return str(command)


def test_the_head_is_restarted(cluster: OnPrem, undisturbed: Job, told: Callable[..., None]) -> None:
    job, (stage, step) = Job(cluster, "head"), random_step("head")
    job.start()
    job.wait_for(stage, step)
    up = cluster.up()  # `ray stop` and `ray start` on the head: the driver is gone, and all that Ray knew
    job.end()
    before = job.traces()
    job.start()
    seconds = job.recovers(stage, job.began, before)
    job.complete()
    same_as(undisturbed, job)
    fault = f"Ray is stopped and started on the head, {stage} step {step}"
    told(job, fault, f"all hosts were back after {up:.0f} s; the same job, submitted again, went on", seconds)


def test_a_host_is_added(cluster: OnPrem, undisturbed: Job, told: Callable[..., None]) -> None:
    late, job, stage = cluster.workers[-1], Job(cluster, "added"), STAGES[0]
    late.off()
    cluster.wait_for(RANKS - 1)
    job.driver = ["python", "-c", LOOKS_OFTEN]
    job.start("2:3")
    job.wait_for(stage, 1)
    before, since = job.traces(), time.monotonic()
    with slowed(cluster):  # or the run would be over before the host is there
        late.on()
        seconds = job.recovers(stage, since, before)
    job.complete()
    assert job.fed().worlds() == {2, 3}
    same_batches(undisturbed, job)
    for name in STAGES:
        assert job.last(name).state.seen == undisturbed.last(name).state.seen
    told(job, f"a host is switched on, --workers 2:3, in {stage}", "it joined", seconds, "same global batches")
