"""What a step frees is there for the next one."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from ray_jobs.runners.memory import keep_memory
keep_memory()
made = lambda: [torch.ones(5_000_000) for _ in range(8)]
for _ in range(3): made()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): made()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_pages_are_made_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * 5_000_000, "five times 160 MB were made anew otherwise"
