"""`minibert serve` against FastAPI with sentence-transformers: python -m benchmarks.serving --data CS224N

Each side has the same MiniLM and a process of its own; the clients, who ask about Quora's questions, are a third one on
the same machine. First, in turns, as many requests of one text as 32 clients get answered, each of which asks again at
once (the load tests of text-embeddings-inference are such); then ours alone for minutes at a share of its most, sent
when they are due.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.load import Load

CLIENTS = 32
TOKEN = "MINIBERT_TOKEN"


def questions(data: Path, count: int) -> list[str]:
    with open(data / "quora-dev.csv", newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row["sentence1"] for row, _ in zip(rows, range(count), strict=False) if row["sentence1"].strip()]


@contextmanager
def server(*words: str) -> Iterator[str]:
    """A server's command, with a port behind it, until it answers; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *(word.replace("PORT", str(port)) for word in words)]
    process = subprocess.Popen(command, env={name: text for name, text in os.environ.items() if name != TOKEN})
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url):
            assert process.poll() is None, f"{' '.join(command)} ended"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def most(url: str, texts: list[str], seconds: float) -> dict[str, Any]:
    load = Load(url, "/embed", texts, lambda text: {"texts": [text]})
    return asyncio.run(load.closed(CLIENTS, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the CS224N directory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each pass")
    parser.add_argument("--minutes", type=float, default=5.0, help="at a share of the most")
    parser.add_argument("--share", type=float, default=0.7)
    given = parser.parse_args()
    texts = questions(given.data, 2000)
    with tempfile.TemporaryDirectory() as folder:
        encoder = f"{folder}/encoder"
        export = [sys.executable, "-m", "ray_jobs", "export", "minilm-l6", "--format", "sentence-transformers"]
        subprocess.run([*export, "--output", encoder, "--quiet"], check=True)
        with (
            server("ray_jobs", "serve", "minilm-l6", "--port", "PORT") as ours,
            server("benchmarks.plain_server", encoder, "PORT") as plain,
        ):
            passes: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
            for _ in range(given.rounds):
                for name, url in (("ours", ours), ("plain", plain)):
                    passes[name].append(most(url, texts, given.seconds))
                    print(name, json.dumps(passes[name][-1]), flush=True)
            rates = {name: median(one["rate"] for one in found) for name, found in passes.items()}
            print(f"requests a second: {rates}, {rates['ours'] / rates['plain']:.2f} x", flush=True)
            load = Load(ours, "/embed", texts, lambda text: {"texts": [text]})
            steady = asyncio.run(load.open(given.share * rates["ours"], 60 * given.minutes))
            print(json.dumps(steady, indent=2))


if __name__ == "__main__":
    main()
