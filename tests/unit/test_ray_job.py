"""What a driver knows of the Ray job that it may be."""

from __future__ import annotations

import json
import sys

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY

from ray_jobs.driver import ray_job


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"runtime_env": {}, "metadata": {JOB_ID_METADATA_KEY: "raysubmit_1"}}
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps(config))


def test_the_names_are_rays() -> None:
    assert (ray_job.CONFIG, ray_job.KEY) == (RAY_JOB_CONFIG_JSON_ENV_VAR, JOB_ID_METADATA_KEY)


def test_a_driver_that_nobody_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ray_job.CONFIG, raising=False)
    monkeypatch.setattr(sys, "argv", ["minibert", "train", "my recipe.yaml", "--fresh"])
    assert ray_job.submission_id() is None
    assert ray_job.how_to_go_on() == "go on with: minibert train 'my recipe.yaml'"


@pytest.mark.usefixtures("submitted")
def test_a_submitted_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ray_jobs", "train", "demo"])
    assert ray_job.submission_id() == "raysubmit_1"
    assert ray_job.how_to_go_on().endswith("ray job submit ... -- python -m ray_jobs train demo")
