"""Signals to a driver: what they ask, and what its children make of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ray_jobs.runners.cluster import own_signals
from ray_jobs.stopping import StopRequest

pytestmark = pytest.mark.usefixtures("hears_hangups")

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", NUMBERS)
def test_one_asks_and_afterwards_all_is_as_before(number: int) -> None:
    before = [signal.getsignal(each) for each in NUMBERS]
    with StopRequest("go on") as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked
    assert [signal.getsignal(each) for each in NUMBERS] == before


def test_a_terminal_lost_once_more_or_together_with_a_stop_still_saves() -> None:
    """Shells send SIGHUP twice; a session that is ended sends SIGTERM and SIGHUP: neither is a second request."""
    with StopRequest("go on") as stop:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert stop.asked


def test_nohup_is_left_alone() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest("go on") as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked


def test_what_ray_starts_lives_as_long_as_the_driver() -> None:
    assert started_amid_own_signals() == "SIG_DFL"
    with StopRequest("go on"):
        assert started_amid_own_signals() == "SIG_IGN"


def started_amid_own_signals() -> str:
    """What a process started there makes of SIGHUP."""
    before = signal.getsignal(signal.SIGHUP)
    with own_signals():
        code = "import signal; print(signal.getsignal(signal.SIGHUP).name)"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert signal.getsignal(signal.SIGHUP) == before
    return child.stdout.strip()
