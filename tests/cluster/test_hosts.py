"""The lab itself, another one beside that of the other tests: what it starts, it takes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.cluster.hosts import until
from tests.cluster.lab import ROOT, missing

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
OTHER = {"MINIBERT_LAB": "mbtry", "MINIBERT_LAB_NETWORK": "10.213.8"}


@pytest.fixture(autouse=True)
def possible() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.lab", *words], cwd=ROOT, env={**os.environ, **OTHER},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lab(*words: str) -> subprocess.CompletedProcess[str]:
    process = start(*words)
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def traces() -> str:
    """What this machine has of that lab."""
    look = "ip netns; ip -br link; ls -d /var/tmp/mbtry; cat /proc/mounts; ps -eo args"
    found = subprocess.run(["bash", "-c", f"PATH=$PATH:/usr/sbin; {look}"], capture_output=True, text=True).stdout
    return "\n".join(line for line in found.splitlines() if "mbtry" in line and look not in line)


def test_hosts_are_apart_and_leave_nothing() -> None:
    try:
        assert lab("up", "2").returncode == 0
        for name in ("mbtry1", "mbtry2"):
            assert lab("exec", name, "hostname; touch /tmp/mine; pgrep -c sshd").stdout.split()[0] == name
        assert "mine" not in lab("exec", "mbtry0", "ls /tmp").stdout
        reach = "ssh -o StrictHostKeyChecking=no -o ConnectTimeout=3 mbtry2 hostname"
        assert lab("exec", "mbtry0", reach).stdout == "mbtry2\n"
        lab("unplug", "mbtry2")
        assert "mbtry2" not in lab("exec", "mbtry0", reach).stdout
        lab("off", "mbtry2")
        assert "mbtry2 is off" in lab("exec", "mbtry2", "hostname").stderr
        assert lab("on", "mbtry2").returncode == 0
        assert lab("exec", "mbtry0", reach).stdout == "mbtry2\n"
        assert "a lab is up" in lab("up", "2").stderr
    finally:
        assert lab("down").returncode == 0
    assert not traces()
    assert lab("down").returncode == 0, "nothing to take down is no error"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_start_that_is_broken_off_leaves_nothing(number: int) -> None:
    """Ctrl-C takes down what there was; after a SIGKILL `down` does."""
    process = start("up", "5")
    until(lambda: "mbtry1" in traces(), "the first hosts are on")
    process.send_signal(number)
    process.wait(30)
    assert process.returncode != 0
    if number == signal.SIGKILL:
        assert traces() and lab("down").returncode == 0
    assert not traces()
