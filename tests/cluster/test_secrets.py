"""The storage's key is planted in every host's environment, and the cluster's token in its home: neither is anywhere
else after all that the other tests of this folder have done."""

from __future__ import annotations

import shlex

import pytest

from multitask.storage.storage import Storage
from tests.cluster.hosts import FOLDER
from tests.cluster.lab import BUCKET
from tests.cluster.onprem import TOKEN, URL, Job, OnPrem

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
# What the dashboard tells those who have the token.
SHOWN = (
    "api/jobs/",
    "api/v0/actors?detail=1",
    "api/v0/nodes?detail=1",
    "api/v0/runtime_envs?detail=1",
    "nodes?view=summary",
)


@pytest.fixture(params=["key", "token"])
def planted(request: pytest.FixtureRequest, cluster: OnPrem, undisturbed: Job) -> str:
    if request.param == "key":
        return cluster.lab.secret
    return (cluster.user.home / ".ray" / "auth_token").read_text().strip()


def test_no_secret_in_files_of_the_hosts(cluster: OnPrem, planted: str) -> None:
    """Ray's sessions with all logs, homes with what `ray up` left there."""
    for host in cluster.lab.all:
        look = f"grep -rlF --exclude-dir=.ray --exclude=.bashrc -e {shlex.quote(planted)} /tmp ~"
        found = host.exec(f"{look}; ls -R /tmp/ray | wc -l", check=False).stdout.split()
        assert len(found) == 1, f"{host.name}: {found}"
        assert host not in cluster.lab.hosts or int(found[0]) > 20, "there was something to look at"


def test_no_secret_in_what_the_user_saw(planted: str) -> None:
    """The output of `ray up`, of the port forwarding, and of all jobs."""
    files = [*FOLDER.glob("*.log"), *(path for path in (FOLDER / "jobs").rglob("*") if path.is_file())]
    assert len(files) > 5
    assert not [path for path in files if planted in path.read_text(errors="replace")]


def test_no_secret_in_the_bucket(planted: str) -> None:
    """Results, TensorBoard's files, drivers' logs, checkpoints."""
    storage = Storage(f"s3://{BUCKET}")
    names = storage.fs.find(BUCKET)
    assert any("tfevents" in name for name in names) and any(name.endswith("results.json") for name in names)
    assert not [name for name in names if planted.encode() in storage.fs.cat_file(name)]


@pytest.mark.parametrize("path", SHOWN)
def test_no_secret_in_the_dashboard(cluster: OnPrem, planted: str, path: str) -> None:
    shown = cluster.user.exec(f"curl -sf '{URL}/{path}' {TOKEN}").stdout
    assert len(shown) > 100
    assert planted not in shown
