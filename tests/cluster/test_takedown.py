"""`ray down`, when the other tests are through: hosts as they were, but for what the README names."""

from __future__ import annotations

import pytest

from tests.cluster.hosts import until
from tests.cluster.onprem import OnPrem

LOOK = "ps -eo args | grep -E 'raylet|gcs_server|ray::|/ray/' | grep -v grep"
MISSED = 120  # seconds within which workers give up a head that is gone; Ray's own limit is 60
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_ray_down(cluster: OnPrem) -> None:
    cluster.user.exec("ray down -y cluster/onprem.yaml")

    def running() -> str:
        return "".join(host.exec(LOOK, check=False).stdout for host in cluster.lab.hosts)

    assert not cluster.head.exec(LOOK, check=False).stdout, "the head's Ray is stopped by name"
    until(lambda: not running(), "no process of Ray on any host", MISSED, running)
    left = cluster.head.exec("ls -A ~").stdout.split()
    ours, rays = {"minibert", "minibert-venv", ".ray"}, {"ray_bootstrap_config.yaml", "ray_bootstrap_key.pem"}
    assert set(left) == {".bashrc", ".ssh"} | ours | rays
