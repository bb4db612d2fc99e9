"""Importing without the collector leaves nothing behind that it should have found."""

from __future__ import annotations

import gc
import weakref

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
