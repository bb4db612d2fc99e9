"""`ray down`, when the other tests are through: hosts as they were, but for what the README names."""

from __future__ import annotations

import pytest

from tests.cluster.hosts import until
from tests.cluster.onprem import OnPrem

LOOK = "ps -eo args | grep -E 'raylet|gcs_server|ray::|/ray/' | grep -v grep"
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_ray_down(cluster: OnPrem) -> None:
    cluster.user.exec("ray down -y cluster/onprem.yaml")
    ssh = "ssh -i ~/.ssh/id_ed25519 -o StrictHostKeyChecking=no"
    for worker in cluster.workers:
        cluster.user.exec(f"{ssh} {worker.name} minibert-venv/bin/ray stop")

    def running() -> str:
        return "".join(host.exec(LOOK, check=False).stdout for host in cluster.lab.hosts)

    until(lambda: not running(), "no process of Ray on any host", 30, running)
    left = cluster.head.exec("ls -A ~").stdout.split()
    ours, rays = {"minibert", "minibert-venv", ".ray"}, {"ray_bootstrap_config.yaml", "ray_bootstrap_key.pem"}
    caches = {".cache", ".config"}  # of libraries that a job uses
    assert set(left) - caches == {".bashrc", ".ssh"} | ours | rays
