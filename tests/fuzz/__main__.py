"""`python -m tests.fuzz [TARGET...]`, or `make fuzz`: every target with as many inputs as it asks for, by atheris.

A finding is printed with its input, which then belongs into tests/fuzz/corpus/TARGET/; it makes the exit status 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.targets import TARGETS

DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+).*rss: (\d+)Mb")


def fuzz(name: str) -> bool:
    """Whether the target came through; prints a line, and all about a finding."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"minibert-fuzz-{name}-") as folder:
        command = [sys.executable, "-m", "tests.fuzz.one", name, folder]
        done = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        said = (done.stdout + done.stderr).decode(errors="replace")
        seconds, found = time.monotonic() - started, DONE.search(said)
        if done.returncode == 0 and found:
            print(
                f"{name:<12} {found[1]:>7} inputs {found[2]:>6} branches {found[3]:>5} MB {seconds:4.0f} s", flush=True
            )
            return True
        told = "\n".join(line for line in said.splitlines() if not line.startswith(("INFO:", "#", "WARNING:")))
        print(f"{name:<12} FINDING after {seconds:.0f} s\n{told[-5000:]}", flush=True)
        for file in sorted(Path(folder).glob("*-*")):
            if file.name.startswith(("crash", "oom", "timeout", "slow")):
                print(f"{file.name}: {file.read_bytes()!r}", flush=True)
        return False


if __name__ == "__main__":
    names = sys.argv[1:] or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        sys.exit(f"target {unknown[0]}: not known; valid: {', '.join(TARGETS)}")
    sound = [fuzz(name) for name in names]
    print(f"{sum(TARGETS[name].inputs for name in names)} inputs, {sound.count(False)} findings")
    sys.exit(not all(sound))
