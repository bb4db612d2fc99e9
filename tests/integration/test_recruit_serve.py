"""`minibert recruit serve` on Ray Serve: it answers, wants its token, keeps quiet, and leaves nothing behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from multitask.inference.embed import TextEncoder
from multitask.recruit.index import build, save_index
from multitask.recruit.postings import Posting
from multitask.storage.storage import Storage
from ray_jobs.serving.gate import Limits
from tests.helpers import tiny
from tests.served import SECRET, Crowd, Serving, assert_gone, descendants, p99

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
LIMITS = Limits()
TYPED = "sesquipedalian"
POSTINGS = [
    Posting("1", "Nurse", "Clinic", "Yerevan", "Care for patients by night."),
    Posting("2", "Truck driver", "Road", "Gyumri", "Drive trucks and keep a log of miles."),
]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    index = tmp_path_factory.mktemp("served") / "index"
    save_index(Storage(str(index)), build(TextEncoder(tiny()), POSTINGS), tiny(), {})
    serving = Serving("recruit", "serve", str(index))
    yield serving
    if serving.process.poll() is None:
        serving.process.kill()


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
    assert_gone(family)
    said = serving.said + serving.rest()
    assert said.rstrip().endswith("stopping ...") and TYPED not in said and SECRET not in said
