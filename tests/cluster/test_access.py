"""Who reaches the cluster: what listens where, as seen from another host, and what it answers without the token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.cluster.hosts import Host
from tests.cluster.lab import ROOT
from tests.cluster.onprem import URL, OnPrem

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
KEPT = ROOT / "runs" / "lab-listening.json"
SSH, GCS, DASHBOARD = 22, 6379, 8265

RAY = {
    "gcs_server", "raylet", "dashboard.py", "monitor.py", "ray.util.client.server", "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
}  # fmt: skip


@dataclass(frozen=True)
class Listener:
    """One open port. reached: from another host, at the host's own address."""

    host: str
    process: str
    address: str
    port: int
    reached: bool


@pytest.fixture(scope="module")
def listeners(cluster: OnPrem) -> list[Listener]:
    found = [listener for host in (cluster.head, cluster.workers[0]) for listener in _listeners(cluster, host)]
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps([asdict(listener) for listener in found], indent=2) + "\n")
    return found


def _listeners(cluster: OnPrem, host: Host) -> Iterator[Listener]:
    """As its own kernel says it, each tried from another host of the cluster."""
    other = cluster.workers[1]
    for line in host.exec("ss -tlnpH").stdout.splitlines():
        *_, local, _, users = line.split(maxsplit=5)
        address, _, port = local.rpartition(":")
        process = users.partition("pid=")[2].partition(",")[0]
        words = host.exec(f"tr '\\0' '\\n' < /proc/{process}/cmdline", check=False).stdout.split()
        reach = other.exec(f"timeout 3 bash -c '< /dev/tcp/{host.address}/{port}'", check=False).returncode == 0
        address = address.strip("[]").removeprefix("::ffff:")
        yield Listener(host.name, _name(words), address, int(port), reach and not address.startswith("127."))


def _name(command: list[str]) -> str:
    """A program's, a Python script's, a module's."""
    first, *words = [Path(word.rstrip(":")).name for word in command]
    if not first.startswith("python"):
        return first
    scripts = [word for word in words if word.endswith(".py") and word != "setup_worker.py"]
    return scripts[0] if scripts else words[words.index("-m") + 1]


def test_all_hosts_have_joined(cluster: OnPrem) -> None:
    assert cluster.alive() == {host.address for host in cluster.lab.hosts}


def test_only_ssh_and_ray_listen(listeners: list[Listener]) -> None:
    outside = [listener for listener in listeners if listener.reached]
    assert SSH in {listener.port for listener in outside}
    assert DASHBOARD not in {listener.port for listener in outside}
    assert {listener.process for listener in outside} <= RAY | {"sshd"}
    (dashboard,) = [listener for listener in listeners if listener.port == DASHBOARD]
    assert dashboard.address == "127.0.0.1" and not dashboard.reached


def test_a_submit_without_the_token_is_refused(cluster: OnPrem) -> None:
    submit = f"ray job submit --address {URL} --working-dir . -- python -m ray_jobs --help"
    refused = cluster.user.exec(f"HOME=$(mktemp -d) RAY_AUTH_MODE=disabled {submit}", check=False)
    assert refused.returncode != 0
    assert "401" in refused.stdout + refused.stderr or "token" in (refused.stdout + refused.stderr).lower()
    assert "submitted successfully" not in refused.stdout


def test_a_driver_without_the_token_is_refused(cluster: OnPrem) -> None:
    """Inside the network, straight to the head's port, as a host that nobody let in would."""
    join = f"import ray; ray.init(address='{cluster.head.address}:{GCS}', logging_level='ERROR'); print('in')"
    refused = cluster.user.exec(f'HOME=$(mktemp -d) RAY_AUTH_MODE=disabled timeout 60 python -c "{join}"', check=False)
    assert refused.returncode != 0
    assert "in" not in refused.stdout.split()


def test_without_the_token_there_are_metrics_and_no_more(cluster: OnPrem, listeners: list[Listener]) -> None:
    """What Ray's ports answer to HTTP from another host: nothing, a refusal, or figures for Prometheus."""
    hosts = {host.name: host for host in cluster.lab.hosts}
    for listener in listeners:
        if listener.reached and listener.port != SSH:
            ask = f"curl -s -m 5 -w '\\n%{{http_code}}' http://{hosts[listener.host].address}:{listener.port}/"
            answer, _, status = cluster.workers[1].exec(ask, check=False).stdout.rpartition("\n")
            assert status in ("000", "401", "403", "404") or answer.startswith("# HELP"), (
                f"{listener}: {status} {answer}"
            )
