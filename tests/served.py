"""A service's command in a process of its own, and clients that mean it no good."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Queue

from schemathesis.config import SchemathesisConfig

from ray_jobs.serving.gate import TOKEN
from tests.recruiter import free_port

# 413 answers a body of over 500,000 bytes, which no schema can tell and schemathesis does not reckon with.
_STATUSES = {
    "negative_data_rejection": [f"4{number:02}" for number in range(100)],
    "positive_data_acceptance": ["2xx", "401", "404", "413", "5xx"],
}
SCHEMATHESIS = SchemathesisConfig.from_dict(
    {"checks": {check: {"expected-statuses": statuses} for check, statuses in _STATUSES.items()}}
)

ROOT = Path(__file__).resolve().parents[1]
SECRET = "correct-horse-battery"


class Serving:
    """The command in a process of its own. said: its lines, up to the one that says where it answers."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray_jobs", *words, "--port", str(free_port())],
            cwd=ROOT,
            env={**os.environ, TOKEN: SECRET},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.said = ""
        while "http://" not in self.said:
            line = self._lines.get(timeout=200)
            assert line, f"it ended: {self.said}"
            self.said += line

        self.url = next(word for word in self.said.split() if word.startswith("http://"))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def rest(self) -> str:
        return "".join(iter(lambda: self._lines.get(timeout=60), ""))


def running() -> dict[int, int]:
    """Every process with its parent."""
    listed = subprocess.run(["ps", "-Ao", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}


def descendants(pid: int) -> set[int]:
    parents, found = running(), {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def assert_gone(family: set[int]) -> None:
    """Holds that none of those processes lives on, within half a minute."""
    late = time.monotonic() + 30
    while family & running().keys() and time.monotonic() < late:
        time.sleep(0.2)
    assert not family & running().keys()


class Crowd:
    """Connections, half of them of the healthy one's address, that send what is given, and then nothing."""

    def __init__(self, url: str, count: int, words: bytes) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.stop = threading.Event()
        self.some = [
            socket.create_connection((host, int(port)), timeout=30, source_address=(f"127.0.0.{1 + at % 2}", 0))
            for at in range(count)
        ]
        for one in self.some:
            one.sendall(words)

    def trickle(self) -> None:
        """A byte a second each, until the end."""
        while not self.stop.wait(1):
            for one in self.some:
                with suppress(OSError):  # closed by the server
                    one.sendall(b"x")

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for one in self.some:
            one.close()


def p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
