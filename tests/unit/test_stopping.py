"""Signals to a driver: what they ask, and what its children make of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.progress import Interrupted, Progress
from multitask.data import tokens
from multitask.recipe.checks import build_recipe
from multitask.storage.storage import Storage
from ray_jobs.driver import driver
from ray_jobs.driver.request import TrainingRequest
from ray_jobs.options import Workers
from ray_jobs.runners.cluster import own_signals
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.helpers import recipe_tree

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


def test_a_wish_to_stop_ends_the_reading_of_files_and_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failing where reading goes on to its end: the files of a large corpus take minutes."""
    stop, seen = StopRequest("again"), list[str]()
    monkeypatch.setattr(tokens, "CHUNK", 16)
    monkeypatch.setattr(driver, "LONG_READING", -1.0)

    class Told(Screen):
        def progress(self, progress: Progress) -> None:
            seen.append(progress.line())
            stop.asked = len(seen) == 3

    request = TrainingRequest(build_recipe(recipe_tree(), "r"), None, Storage(str(tmp_path)), "small", Workers(), False)
    with pytest.raises(Interrupted):
        driver.Driver(request, Told(quiet=True), stop=stop)
    assert seen == [f"reading  sst dev {rows}" for rows in (16, 32, 48)]
    assert not list(tmp_path.glob("cache/tokens/*"))
    stop.asked = False
    seen.clear()
    driver.Driver(request, Screen(quiet=True), stop=stop)
    assert len(list(tmp_path.glob("cache/tokens/*.safetensors"))) > 2
