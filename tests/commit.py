"""What each commit draws anew: of what takes hours, a few."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """The commit's hash, a seed; without a repository always the same."""
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() or "no commit"
