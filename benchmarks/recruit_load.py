"""How long a served search takes: python -m benchmarks.recruit_load URL QUERIES_FILE --rate 20 --seconds 60

Requests are sent when they are due, whether or not earlier ones were answered, and a latency counts from when its
request was due: a server that stalls makes all that come meanwhile late (no "coordinated omission").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np

WARM_UP = 20  # requests that are not counted
TIMEOUT = 30.0  # seconds


async def drive(url: str, queries: Sequence[str], rate: float, seconds: float, token: str | None) -> dict[str, Any]:
    """{"requests", "errors": {what: how many}, "p50", "p95", "p99", "max": ms, "sent late": ms, the worst}"""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, limits=limits) as client:
        for query in islice(cycle(queries), WARM_UP):
            (await client.post("/search", json={"text": query})).raise_for_status()
        start = time.perf_counter() + 0.1
        due = [start + number / rate for number in range(round(rate * seconds))]
        found = await asyncio.gather(*(one(client, query, at) for query, at in zip(cycle(queries), due, strict=False)))
    times = np.array([took for took, _, _ in found]) * 1000
    errors = Counter(error for _, _, error in found if error)
    quantiles = {f"p{part}": round(float(np.percentile(times, part)), 1) for part in (50, 95, 99)}
    worst = {"max": round(float(times.max()), 1), "sent late": round(max(late for _, late, _ in found) * 1000, 1)}
    return {"requests": len(found), "rate": rate, "errors": dict(errors), **quantiles, **worst}


async def one(client: httpx.AsyncClient, query: str, due: float) -> tuple[float, float, str]:
    """Seconds from when it was due to its answer, and to when it was sent; what went wrong."""
    await asyncio.sleep(due - time.perf_counter())
    late = time.perf_counter() - due
    try:
        status = (await client.post("/search", json={"text": query})).status_code
        error = "" if status == 200 else f"status {status}"
    except httpx.HTTPError as failure:
        error = type(failure).__name__
    return time.perf_counter() - due, late, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where `minibert recruit serve` answers; MINIBERT_TOKEN is sent if it is set")
    parser.add_argument("queries", type=Path, help="a query a line")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    queries = [line for line in given.queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not queries:
        parser.error(f"{given.queries}: no queries; expected one a line")
    try:
        result = asyncio.run(drive(given.url, queries, given.rate, given.seconds, os.environ.get("MINIBERT_TOKEN")))
    except httpx.HTTPError as error:  # while it warms up
        parser.error(f"{given.url}: {error}")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
