"""How long a served search takes: python -m benchmarks.recruit_load URL QUERIES_FILE --rate 20 --seconds 60"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path

import httpx

from benchmarks.load import Load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="where `minibert recruit serve` answers; MINIBERT_TOKEN is sent if it is set")
    parser.add_argument("queries", type=Path, help="a query a line")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    queries = [line for line in given.queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not queries:
        parser.error(f"{given.queries}: no queries; expected one a line")
    load = Load(given.url, "/search", queries, lambda text: {"text": text}, os.environ.get("MINIBERT_TOKEN"))
    try:
        result = asyncio.run(load.open(given.rate, given.seconds))
    except httpx.HTTPError as error:  # while it warms up
        parser.error(f"{given.url}: {error}")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
