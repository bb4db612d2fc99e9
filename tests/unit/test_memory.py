"""What a step frees is there for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from ray_jobs.runners.memory import keep_memory
keep_memory()
made = lambda: [torch.ones(12_000_000) for _ in range(4)]
for _ in range(3): made()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): made()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_pages_are_made_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 12_000_000, "five times 192 MB were made anew otherwise"
