"""Importing without the collector leaves nothing behind that it should have found."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from ray_jobs.importing import uncollected


class Node:
    """One of a cycle, which only the collector frees."""

    def __init__(self) -> None:
        self.own = self


def test_garbage_of_before_is_not_kept_and_the_collector_works_again() -> None:
    gc.disable()
    before = weakref.ref(Node())
    with uncollected():
        assert before() is None and not gc.isenabled()
    assert gc.isenabled()
    after = weakref.ref(Node())
    gc.collect()
    assert after() is None


SCRIPT = """
import sys
from ray_jobs.importing import import_torchmetrics
import_torchmetrics()
import pytorch_lightning
print(*[name for name in ("transformers", "scipy", "matplotlib") if name in sys.modules])
import scipy, torch, torchmetrics
from lightning_utilities.core.imports import RequirementCache
print(bool(RequirementCache("scipy")), float(torchmetrics.MeanMetric()(torch.ones(3))))
"""


@pytest.mark.slow
def test_lightning_comes_without_what_only_other_scores_use() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["", "True 1.0", ""]
