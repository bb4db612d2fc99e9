"""`minibert serve`: load_bundle's numbers over HTTP, in one process and by replicas of which one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from multitask import load_bundle
from multitask.bundle.bundle import save_bundle
from multitask.storage.storage import Storage
from tests.helpers import tiny
from tests.served import SECRET, Crowd, Serving, assert_gone, descendants, p99

pytestmark = pytest.mark.timeout(300)
TEXTS = ["A man is playing a guitar.", "Someone makes music.", "Stocks fell on Monday, and again on Tuesday."]
HEADERS = {"authorization": f"Bearer {SECRET}"}
HEAD = (
    f"POST /embed HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n"
    "Content-Type: application/json\r\nContent-Length: 400000\r\n\r\n"
).encode()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("served") / "bundle"
    save_bundle(Storage(str(folder)), "", tiny())
    return str(folder)


@pytest.fixture(scope="module")
def serving(bundle: str) -> Iterator[Serving]:
    serving = Serving("serve", bundle)
    yield serving
    if serving.process.poll() is None:
        serving.process.kill()


def embedded(url: str, texts: list[str]) -> np.ndarray[Any, Any]:
    answer = httpx.post(f"{url}/embed", json={"texts": texts}, headers=HEADERS, timeout=30)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["vectors"])


def test_it_gives_what_load_bundle_gives(serving: Serving, bundle: str) -> None:
    model = load_bundle(bundle)
    assert np.abs(embedded(serving.url, TEXTS) - model.embed(TEXTS)).max() < 1e-6

    async def at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=serving.url, headers=HEADERS, timeout=30) as client:
            return await asyncio.gather(*(client.post("/embed", json={"texts": [text]}) for text in TEXTS * 20))

    for text, answer in zip(TEXTS * 20, asyncio.run(at_once()), strict=True):
        assert np.abs(np.array(answer.json()["vectors"]) - model.embed([text])).max() < 1e-6


def latencies(url: str, count: int) -> list[float]:
    found = []
    with httpx.Client(base_url=url, headers=HEADERS, timeout=30) as client:
        for _ in range(count):
            began = time.perf_counter()
            assert client.post("/embed", json={"texts": TEXTS[:1]}).status_code == 200
            found.append((time.perf_counter() - began) * 1e3)
    return found


def test_64_slow_clients_do_not_stop_it(serving: Serving) -> None:
    latencies(serving.url, 20)
    alone, beside = list[float](), list[float]()
    for words, trickling in ((HEAD, False), (HEAD + b'{"texts": ["', True), (HEAD[:30], False)):
        alone += latencies(serving.url, 60)
        with Crowd(serving.url, 64, words) as crowd:
            if trickling:
                threading.Thread(target=crowd.trickle, daemon=True).start()
            beside += latencies(serving.url, 60)
    print(f"p99 {p99(alone):.0f} ms alone, {p99(beside):.0f} ms beside slow clients")
    assert p99(beside) < 250, "a place that a silent client kept would be waited for for seconds"


def test_it_counts_wants_its_token_and_ends_with_ctrl_c(serving: Serving) -> None:
    assert httpx.post(f"{serving.url}/embed", json={"texts": TEXTS}).status_code == 401
    told = httpx.get(f"{serving.url}/metrics", headers=HEADERS).text
    assert 'minibert_requests_total{path="/embed",status="401"} 1.0' in told.splitlines()
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(30) == 0
    said = serving.said + serving.rest()
    assert said.rstrip().endswith("stopping ...") and SECRET not in said


def workers(pid: int) -> list[int]:
    """The processes of Ray that hold a model, below one."""
    found = []
    for one in descendants(pid):
        listed = subprocess.run(["ps", "-o", "args=", "-p", str(one)], capture_output=True, text=True).stdout
        if "ServeReplica" in listed:
            found.append(one)
    return found


@pytest.mark.ray
def test_a_killed_replica_loses_what_it_was_answering_and_no_more(bundle: str) -> None:
    serving = Serving("serve", bundle, "--replicas", "2")
    try:
        ended: list[int] = []

        async def ask(client: httpx.AsyncClient, at: float) -> None:
            await asyncio.sleep(at)
            ended.append((await client.post("/embed", json={"texts": TEXTS})).status_code)

        async def ask_many() -> None:
            async with httpx.AsyncClient(base_url=serving.url, headers=HEADERS, timeout=60) as client:
                await asyncio.gather(*(ask(client, number * 0.02) for number in range(500)), kill())

        async def kill() -> None:
            await asyncio.sleep(2)
            os.kill(workers(serving.process.pid)[0], signal.SIGKILL)

        asyncio.run(ask_many())
        lost = [status for status in ended if status != 200]
        assert len(ended) == 500 and len(lost) <= 10 and set(lost) <= {500, 503}, lost
        model = load_bundle(bundle)
        assert np.abs(embedded(serving.url, TEXTS) - model.embed(TEXTS)).max() < 1e-6
        family = descendants(serving.process.pid)
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 0
        assert_gone(family)
    finally:
        if serving.process.poll() is None:
            serving.process.kill()
