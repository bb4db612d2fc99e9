"""What each commit draws anew of what takes hours: tests, faults, crash states, damaged places."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

EACH = {"test_ray.py", "test_experiment.py"}  # whose slow tests no commit goes without
LONG = {  # files that take more than two minutes of one core
    "test_batch_ray.py",
    "test_crashpoints.py",
    "test_export_onnx.py",
    "test_kill.py",
    "test_ranks.py",
    "test_ray_around.py",
    "test_sweep.py",
}
# Pool -> how many of its members a commit draws. A page and a fault are tests; a member of the other pools is a file.
DRAWN = {"pages": 1, "faults": 1, "long": 1, "short": 6}


def commit() -> str:
    """The commit's hash, a seed; without a repository always the same."""
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() or "no commit"


def pool(item: pytest.Item) -> str | None:
    """The pool that a test is drawn from; None of one that every commit runs."""
    for marker in ("pages", "faults"):
        if item.get_closest_marker(marker):
            return marker
    if item.path.name in EACH or not (item.get_closest_marker("slow") or item.get_closest_marker("ray")):
        return None
    return "long" if item.path.name in LONG else "short"


def left(items: Iterable[pytest.Item], seed: str) -> list[pytest.Item]:
    """The tests that a commit with this hash does not draw."""
    members: dict[str, dict[str, list[pytest.Item]]] = {name: {} for name in DRAWN}
    for item in items:
        if name := pool(item):
            member = item.nodeid if name in ("pages", "faults") else item.path.name
            members[name].setdefault(member, []).append(item)
    found: list[pytest.Item] = []
    for name, tests in members.items():
        drawn = random.Random(f"{seed} {name}").sample(sorted(tests), min(DRAWN[name], len(tests)))
        found += [item for member in tests if member not in drawn for item in tests[member]]
    return found
