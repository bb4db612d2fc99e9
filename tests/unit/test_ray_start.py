"""How a run comes to its Ray: a cluster that is not there, a start that takes too long, a long temporary path."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from multitask.errors import UserError
from ray_jobs.options import Workers
from ray_jobs.runners import address, cluster
from ray_jobs.runners.address import unreachable
from ray_jobs.runners.cluster import LONGEST_FOLDER, Cluster
from ray_jobs.runners.workers import RayRunner
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.helpers import small_driver
from tests.integration.test_experiment import minibert
from tests.servers import SETTINGS_FRAME, server_that_says

LATE = Exception("The current node timed out during startup. This could happen because some raylet failed to startup.")


def test_what_speaks_as_ray_does_is_reached() -> None:
    with server_that_says(SETTINGS_FRAME + b"more") as here:
        assert unreachable(here) is None
        assert unreachable(f"ray://{here}") is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers at 127.0.0.1:{port} is no Ray"),
        (None, "127.0.0.1:{port} does not answer: is it Ray's port, is Ray up (ray status)?"),
    ],
)
def test_what_does_not_is_said(monkeypatch: pytest.MonkeyPatch, words: bytes | None, why: str) -> None:
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.2)
    with server_that_says(words) as here:
        assert unreachable(here) == why.format(port=here.rpartition(":")[2])


def test_it_is_known_within_half_a_minute() -> None:
    assert address.CONNECT_SECONDS + address.ANSWER_SECONDS <= 25


@pytest.mark.parametrize("given", ["head", "127.0.0.1:port", "http://127.0.0.1:8265", "ray://"])
def test_what_is_no_address(given: str) -> None:
    assert unreachable(given) == "not an address; valid: HOST:PORT, auto, local"


@pytest.mark.slow
def test_a_dead_address_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_that_says(None) as here:
        pass  # nobody listens there any more
    monkeypatch.setenv("RAY_ADDRESS", here)
    began = time.monotonic()
    assert minibert("train", "demo", "--workers", "2", "--storage", str(tmp_path)) == 2
    assert time.monotonic() - began < 30
    error = capfd.readouterr().err
    assert error.startswith(f"minibert: RAY_ADDRESS={here}: no connection to {here} (") and error.count("\n") == 1


class FakeRay:
    """In place of ray.init: fails as often as is said, then starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self.errors, self.given = list(errors), list[dict[str, Any]]()
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        monkeypatch.setattr(ray, "cluster_resources", dict)

    def init(self, **given: Any) -> None:
        self.given.append(given)
        if self.errors:
            raise self.errors.pop(0)


def entered(capsys: pytest.CaptureFixture[str]) -> str:
    with Cluster(Workers(2, 2), Screen()):
        return capsys.readouterr().out


@pytest.mark.parametrize("dashboard", [False, True])
def test_a_ray_of_ones_own_has_a_dashboard_where_trials_need_it(
    monkeypatch: pytest.MonkeyPatch, dashboard: bool
) -> None:
    """Ray's cleaner, which asks it, is not started where nobody would answer."""
    fake = FakeRay(monkeypatch)
    with Cluster(Workers(2, 2), Screen(), dashboard=dashboard) as cluster:
        made = cluster.trainer_class()(print)._create_default_callbacks()
    assert fake.given[0]["include_dashboard"] is dashboard
    names = [type(callback).__name__ for callback in made]
    assert ("PlacementGroupCleanerCallback" in names) == dashboard and "BackendSetupCallback" in names


SWEPT = {"lr": {"sweep": [1e-2, 1e-3], "by": "quora/accuracy"}}


@pytest.mark.parametrize(("stage", "sweeps"), [({}, False), (SWEPT, True)])
def test_workers_whose_run_has_sweeps_share_a_ray_with_a_dashboard(
    tmp_path: Path, stage: dict[str, Any], sweeps: bool
) -> None:
    driver = small_driver(tmp_path, **stage)
    driver.request = replace(driver.request, workers=Workers(2, 2))
    runner = driver._runner(StopRequest("again"))
    assert isinstance(runner, RayRunner) and runner.cluster.dashboard is sweeps


def test_a_start_that_took_too_long_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRay(monkeypatch, LATE)
    assert "Ray has not started within 30 s: trying once more" in entered(capsys)
    assert len(fake.given) == 2


def test_and_no_more_than_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeRay(monkeypatch, LATE, LATE, LATE)
    with pytest.raises(UserError, match="Ray has not started within 30 s, twice: is this machine very busy"):
        entered(capsys)
    assert len(fake.given) == 2


def test_what_is_wrong_otherwise_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRay(monkeypatch, ValueError("num_cpus"))
    with pytest.raises(ValueError, match="num_cpus"):
        entered(capsys)
    assert len(fake.given) == 1


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize(("length", "moved"), [(LONGEST_FOLDER, False), (LONGEST_FOLDER + 1, True), (400, True)])
def test_a_temporary_path_too_long_for_sockets_is_not_rays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, length: int, moved: bool
) -> None:
    fake = FakeRay(monkeypatch)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, "/" + "d" * (length - 1))
    said = entered(capsys)
    folder = fake.given[0]["_temp_dir"]
    assert (folder is not None) == ("is too long a path for Ray's sockets" in said) == moved
    if moved:
        assert len(folder) <= LONGEST_FOLDER and not os.path.exists(folder), "nothing is left of it"


def test_no_short_path_anywhere_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeRay(monkeypatch)
    monkeypatch.setattr(cluster, "SHORT_FOLDERS", ("/nowhere",))
    monkeypatch.setenv("TMPDIR", "/" + "d" * 99)
    with pytest.raises(UserError, match="35 bytes at most, and none of /nowhere can be written to: name a shorter"):
        entered(capsys)
