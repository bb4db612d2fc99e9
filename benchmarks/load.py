"""HTTP load, open and closed. Open: requests are sent when they are due, whether or not earlier ones were answered, and
a latency counts from when its request was due, so that a server that stalls makes all that come meanwhile late (no
"coordinated omission"). Closed: so many clients, each of which asks again as soon as it is answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count, cycle
from typing import Any

import httpx
import numpy as np

WARM_UP = 20  # requests that are not counted
TIMEOUT = 30.0  # seconds

Body = Callable[[str], dict[str, Any]]


class Load:
    """Asks a path of a server about texts, in turn. body: a text -> what is asked of it."""

    def __init__(self, url: str, path: str, texts: Sequence[str], body: Body, token: str | None = None) -> None:
        self.url, self.path, self.texts, self.body = url, path, texts, body
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=TIMEOUT, limits=limits)

    async def _warm(self, client: httpx.AsyncClient) -> None:
        for text in self.texts[:WARM_UP]:
            (await client.post(self.path, json=self.body(text))).raise_for_status()

    async def open(self, rate: float, seconds: float) -> dict[str, Any]:
        """{"requests", "rate", "errors": {what: how many}, "p50", "p95", "p99", "max": ms, "sent late": ms, the
        worst}"""
        async with self._client() as client:
            await self._warm(client)
            start = time.perf_counter() + 0.1
            due = [start + number / rate for number in range(round(rate * seconds))]
            asked = zip(cycle(self.texts), due, strict=False)
            found = await asyncio.gather(*(self._one(client, text, at) for text, at in asked))
        late = max(late for _, late, _ in found)
        return {
            "rate": rate,
            **_summary([(took, error) for took, _, error in found]),
            "sent late": round(late * 1000, 1),
        }

    async def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """What `open` gives, with the requests that were answered in a second as the rate."""
        found: list[tuple[float, str]] = []
        numbers = count()

        async def ask(client: httpx.AsyncClient, until: float) -> None:
            while (now := time.perf_counter()) < until:
                text = self.texts[next(numbers) % len(self.texts)]
                took, _, error = await self._one(client, text, now)
                found.append((took, error))

        async with self._client() as client:
            await self._warm(client)
            began = time.perf_counter()
            await asyncio.gather(*(ask(client, began + seconds) for _ in range(clients)))
            took = time.perf_counter() - began
        return {"clients": clients, "rate": round(len(found) / took, 1), **_summary(found)}

    async def _one(self, client: httpx.AsyncClient, text: str, due: float) -> tuple[float, float, str]:
        """Seconds from when it was due to its answer, and to when it was sent; what went wrong."""
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        late = time.perf_counter() - due
        try:
            status = (await client.post(self.path, json=self.body(text))).status_code
            error = "" if status == 200 else f"status {status}"
        except httpx.HTTPError as failure:
            error = type(failure).__name__
        return time.perf_counter() - due, late, error


def _summary(found: Sequence[tuple[float, str]]) -> dict[str, Any]:
    times = np.array([took for took, _ in found]) * 1000
    errors = Counter(error for _, error in found if error)
    quantiles = {f"p{part}": round(float(np.percentile(times, part)), 1) for part in (50, 95, 99)}
    return {"requests": len(found), "errors": dict(errors), **quantiles, "max": round(float(times.max()), 1)}
