"""`minibert recruit serve` on Ray Serve: it answers, wants its token, keeps quiet, and leaves nothing behind."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue

import httpx
import pytest

from multitask.inference.embed import TextEncoder
from multitask.recruit.index import build, save_index
from multitask.recruit.postings import Posting
from multitask.storage.storage import Storage
from ray_jobs.recruit.gate import TOKEN, Limits
from tests.helpers import tiny
from tests.recruiter import free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits()
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


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    index = tmp_path_factory.mktemp("served") / "index"
    save_index(Storage(str(index)), build(TextEncoder(tiny()), POSTINGS), tiny(), {})
    serving = Serving(index, free_port())
    yield serving
    if serving.process.poll() is None:
        serving.process.kill()


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


HEAD = (
    f"POST /search HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
    "Content-Type: application/json\r\nContent-Length: 400000\r\n\r\n"
).encode()


def latencies(client: httpx.Client, count: int) -> list[float]:
    """Milliseconds of as many searches, each of which is answered."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        assert client.post("/search", json={"text": "drive trucks"}).status_code == 200
        found.append((time.perf_counter() - began) * 1e3)
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def test_slow_clients_take_nothing_from_the_others(serving: Serving) -> None:
    """Unloaded and loaded searches in turn, so that what else the machine does meets both alike."""
    url, headers = serving.url, {"authorization": f"Bearer {SECRET}"}
    with Crowd(url, 1, HEAD[:30]) as silent, httpx.Client(base_url=url, timeout=30, headers=headers) as client:
        latencies(client, 30)
        alone, beside = list[float](), list[float]()
        for count, words, trickling in (
            (64, HEAD, False),
            (300, HEAD, False),
            (300, HEAD + b'{"text": "', True),
            (300, HEAD[:30], False),
        ):
            alone += latencies(client, 60)
            with Crowd(url, count, words) as crowd:
                if trickling:
                    threading.Thread(target=crowd.trickle, daemon=True).start()
                beside += latencies(client, 60)
        with Crowd(url, LIMITS.per_client + 1, HEAD) as crowd:
            assert {one.recv(12) for one in crowd.some} == {b"HTTP/1.1 408"}
        assert silent.some[0].recv(1) == b""  # closed: its headers never came
    print(f"p99 {p99(alone):.0f} ms alone, {p99(beside):.0f} ms beside slow clients")
    assert p99(beside) < 2 * p99(alone)


def test_it_answers_wants_its_token_and_ends_with_ctrl_c(serving: Serving) -> None:
    with httpx.Client(base_url=serving.url, timeout=30) as client:
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
