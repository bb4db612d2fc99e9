"""`minibert recruit serve` on Ray Serve: it answers, wants its token, keeps quiet, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import httpx
import pytest

from multitask.embed import TextEncoder
from multitask.recruit.index import build, save_index
from multitask.recruit.postings import Posting
from multitask.storage import Storage
from ray_jobs.recruit.serve import TOKEN
from tests.helpers import tiny
from tests.recruiter import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct-horse-battery"
TYPED = "sesquipedalian"
POSTINGS = [
    Posting("1", "Nurse", "Clinic", "Yerevan", "Care for patients by night."),
    Posting("2", "Truck driver", "Road", "Gyumri", "Drive trucks and keep a log of miles."),
]


class Serving:
    """The command in a process of its own. said: its lines, up to the one that says where it answers."""

    def __init__(self, directory: Path, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ray_jobs", "recruit", "serve", str(directory), "--port", str(port)],
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


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    save_index(Storage(str(tmp_path / "index")), build(TextEncoder(tiny()), POSTINGS), tiny(), {})
    serving = Serving(tmp_path / "index", free_port())
    yield serving
    if serving.process.poll() is None:
        serving.process.kill()


def test_it_answers_wants_its_token_and_ends_with_ctrl_c(serving: Serving) -> None:
    url = next(word for word in serving.said.split() if word.startswith("http://"))
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/health").json() == {"status": "ok", "postings": 2, "passages": 2, "parts": ["search"]}
        assert client.post("/search", json={"text": TYPED}).status_code == 401
        client.headers["authorization"] = f"Bearer {SECRET}"
        hits = client.post("/search", json={"text": f"drive trucks {TYPED}", "mode": "bm25"}).json()["hits"]
        assert [(hit["title"], hit["passage"]) for hit in hits] == [("Truck driver", POSTINGS[1].description)]
        assert client.post("/complete", json={"text": TYPED}).status_code == 404
        assert client.post("/search", json={"text": TYPED * 80_000}).status_code == 413
        assert "<h1>BERT as a Recruiter</h1>" in client.get("/").text

    family = descendants(serving.process.pid)
    assert family
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(60) == 0
    late = time.monotonic() + 30
    while family & running().keys() and time.monotonic() < late:
        time.sleep(0.2)
    assert not family & running().keys()
    said = serving.said + serving.rest()
    assert said.rstrip().endswith("stopping ...") and TYPED not in said and SECRET not in said
