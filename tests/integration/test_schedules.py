"""A few of `make schedules`, drawn by the commit, against an S3 that lags and refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.commit import commit

ROOT = Path(__file__).parents[2]
COUNT = 5  # one of each kind


@pytest.mark.timeout(300)
def test_schedules_of_this_commit() -> None:
    seed = zlib.crc32(commit().encode())
    command = [sys.executable, "-m", "tests.schedules", "--seed", str(seed), "--count", str(COUNT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"{COUNT} schedules of seed {seed} in", done.stdout)
    assert done.stdout.count("refusals") == COUNT
