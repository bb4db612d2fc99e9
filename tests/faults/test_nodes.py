"""Faults of whole nodes: a Ray cluster of several raylets on this machine, of which one is killed or taken away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.faults.harness import STAGES, Run, parents, random_step, same_as, same_batches, workers_of

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(600)]
RANKS_AND_A_SPARE = 4
NOTICE = 20  # seconds between the notice and the node's end


class Nodes:
    """A head without CPUs, where the driver and its actors are, and nodes of one CPU each."""

    def __init__(self, count: int) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(count)]
        self.cluster.wait_for_nodes()
        self.environment = {"RAY_ADDRESS": self.cluster.address}

    def raylet(self, node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def of_worker(self) -> Any:
        """A node that a train worker runs on."""
        found = parents()
        busy = {found[worker] for worker in workers_of(os.getpid())}
        return next(node for node in self.nodes if self.raylet(node) in busy)


@pytest.fixture
def nodes(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    # Workers have the environment of their node, not of the driver.
    for name, value in Run(tmp_path).environment.items():
        monkeypatch.setenv(name, value)
    started = Nodes(request.param)
    yield started
    started.cluster.shutdown()


@pytest.mark.parametrize("nodes", [RANKS_AND_A_SPARE], indirect=True)
def test_a_raylet_is_killed(
    nodes: Nodes,
    tmp_path: Path,
    undisturbed: Run,
    told: Callable[..., None],
) -> None:
    run, (_, step) = Run(tmp_path, environment=nodes.environment), random_step("raylet")
    stage = STAGES[0]  # its worker trains on for some seconds, until it misses its raylet
    run.start()
    run.wait_for(stage, step)
    before, since = run.traces(), time.monotonic()
    os.kill(nodes.raylet(nodes.of_worker()), signal.SIGKILL)
    seconds = run.recovers(stage, since, before)
    run.complete()
    same_as(undisturbed, run)
    told(run, f"kill -9 of a raylet, {stage} step {step}", "its worker was started on another node", seconds)


@pytest.mark.parametrize("nodes", [RANKS_AND_A_SPARE], indirect=True)
def test_a_node_is_taken_away_with_notice(
    nodes: Nodes,
    tmp_path: Path,
    undisturbed: Run,
    told: Callable[..., None],
) -> None:
    # Without other checkpoints than those at epochs' ends.
    run, (_, step) = Run(tmp_path, environment=nodes.environment, checkpoint_steps=None), random_step("drain")
    stage = STAGES[0]
    run.start()
    run.wait_for(stage, step)
    node, before = nodes.of_worker(), run.traces()
    drain = ["drain-node", "--address", nodes.cluster.address, "--node-id", node.node_id]
    drain += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    ray = str(Path(sys.executable).with_name("ray"))
    subprocess.run([ray, *drain, "--deadline-remaining-seconds", str(NOTICE)], check=True, capture_output=True)
    time.sleep(NOTICE)
    gone = time.monotonic()
    nodes.cluster.remove_node(node, allow_graceful=False)  # as the cloud does, whatever still runs there
    run.complete()
    assert "a node of this run is about to be taken away: saving now" in run.output()
    assert run.traces() - before, "no worker was started anew"
    same_as(undisturbed, run)
    told(run, f"ray drain-node, {NOTICE} s of notice, {stage} step {step}", "saved, and started without the node")
    assert time.monotonic() - gone < 300


@pytest.mark.parametrize("nodes", [3], indirect=True)
def test_an_elastic_run_goes_on_with_fewer(
    nodes: Nodes,
    tmp_path: Path,
    undisturbed: Run,
    told: Callable[..., None],
) -> None:
    run, (_, step) = Run(tmp_path, environment=nodes.environment), random_step("elastic")
    stage = STAGES[0]  # as above
    run.start("2:3")
    run.wait_for(stage, step)
    before, since = run.traces(), time.monotonic()
    os.kill(nodes.raylet(nodes.of_worker()), signal.SIGKILL)
    seconds = run.recovers(stage, since, before)
    run.complete()
    assert run.fed().worlds() == {2, 3}
    same_batches(undisturbed, run)
    for name in STAGES:
        assert run.last(name).state.seen == undisturbed.last(name).state.seen
    outcome = "went on with 2 of --workers 2:3"
    told(run, f"kill -9 of a raylet, elastic, {stage} step {step}", outcome, seconds, "same global batches")
