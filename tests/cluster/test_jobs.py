"""`ray job submit` of recipes, one worker a host, over S3."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from multitask.data.sample import sample_uri
from multitask.storage.storage import Storage
from tests.cluster.lab import BUCKET
from tests.cluster.onprem import Job, OnPrem
from tests.faults.harness import STAGES, random_step, same_as

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_recipe_with_minilm(cluster: OnPrem) -> None:
    """A packaged recipe, its data in the bucket; the results say which job it was and where its log is."""
    data, sample = Storage(f"s3://{BUCKET}/data"), Storage(sample_uri())
    for name in sample.list():
        data.write_bytes(name, sample.read_bytes(name))
    job = Job(cluster, "minilm")
    small = {"encoder": "minilm-l6", "defaults.epochs": 1, "defaults.max_examples": 48, "defaults.validate": "stage"}
    options = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    job.submit("configs/recipes/demo.yaml", "--data", data.uri, "--workers", "3", *options)
    job.complete(600)
    assert {cluster.host_of(trace) for trace in job.traces()} == set(cluster.lab.hosts), "one rank a host"
    assert f"tensorboard --logdir {job.storage}/demo" in job.output()
    assert f"minibert report {job.storage}/demo" in job.output()
    results = Storage(job.storage).at("demo").read_json("results.json")
    first, *stages = results["stages"]
    assert [stage["status"] for stage in stages] == ["finished"] * 3
    assert {stage["submission_id"] for stage in stages} == {job.submission}
    assert {stage["workers"] for stage in stages} == {3}
    assert first["metrics"]["sts/pearson"] > 0.3, "an encoder that knows sentences"
    assert b"stage sst" in Storage(job.storage).at("demo").read_bytes(stages[-1]["log"])


def test_a_job_is_stopped(cluster: OnPrem, undisturbed: Job, told: Callable[..., None]) -> None:
    job, (_, step), stage = Job(cluster, "stopped"), random_step("job stop"), STAGES[0]
    job.start()
    job.wait_for(stage, step)
    job.stop()
    job.finish(60)
    assert "go on by submitting it again" in job.output()
    assert job.last(stage).state.position.steps == job.furthest(stage), "what was done has been saved"
    before = job.traces()
    job.start()
    seconds = job.recovers(stage, job.began, before)
    job.complete()
    same_as(undisturbed, job)
    told(job, f"ray job stop, {stage} step {step}", "saved; the same job, submitted again, went on", seconds)


def test_what_a_job_brings_along_is_small(cluster: OnPrem, undisturbed: Job) -> None:
    """The checkout as the cluster holds it: far below Ray's limit of 100 MiB, and nothing that no worker needs."""
    found = cluster.head.exec("cd /tmp/ray/session_latest/runtime_resources/working_dir_files && du -sk */ && ls -A */")
    size, *_ = found.stdout.split()
    assert int(size) < 5 << 10, found.stdout
    assert not {".git", "tests", "docs", "runs", ".venv"} & set(found.stdout.split())
