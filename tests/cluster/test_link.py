"""DDP over a slow link: that the limit is one, and what a step costs then (tests/cluster/link.py)."""

from __future__ import annotations

import pytest

from tests.cluster.link import WAYS, keep, measure, table
from tests.cluster.onprem import OnPrem

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_steps_over_a_limited_link(cluster: OnPrem) -> None:
    found = {way: measure(cluster, way) for way in WAYS}
    keep(found)
    print(table(found))
    for seconds in found.values():
        free, fast, slow = seconds.values()
        assert free < fast < slow
    assert found["float32"]["100 Mbit/s"] > 91e6 * 8 / 100e6, "91 MB cannot come faster"
