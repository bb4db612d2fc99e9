"""How much memory `minibert embed` takes, and whether it grows with the table.

    python -m benchmarks.batch_memory --rows 100000 1000000 --workers 0 2

Made texts of 2 to 12 words, the tiny encoder, one file. Looked at every half second: each process's own memory
(resident less shared), the largest of a kind, and what lies in /dev/shm, which is Ray's object store.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

WORDS = ["good", "film", "the", "worst", "music", "someone", "keeps", "books", "guitar", "playing", "how", "learn"]
KINDS = {"ray::MapWorker": "worker", "ray::ReadTable": "reader"}  # by the process's title; the command is the driver
MIB = 2**20


def made(folder: str, rows: int) -> Path:
    """A text a line; the same ones every time."""
    drawn, file = random.Random(1), Path(folder, f"{rows}.txt")
    with open(file, "w") as opened:
        for _ in range(rows):
            opened.write(" ".join(drawn.choices(WORDS, k=drawn.randint(2, 12))) + "\n")
    return file


def measured(command: list[str]) -> tuple[float, dict[str, int]]:
    """Seconds, and the most bytes of each kind."""
    before, began = psutil.disk_usage("/dev/shm").used, time.monotonic()
    run = psutil.Popen(command, stdout=subprocess.DEVNULL)
    most = dict.fromkeys(("driver", "reader", "worker", "object store"), 0)
    while run.poll() is None:
        for kind, size in seen(run):
            most[kind] = max(most[kind], size)
        most["object store"] = max(most["object store"], psutil.disk_usage("/dev/shm").used - before)
        time.sleep(0.5)
    if run.returncode:
        sys.exit(run.returncode)
    return time.monotonic() - began, most


def seen(run: psutil.Popen) -> Iterator[tuple[str, int]]:
    for process in (run, *run.children(recursive=True)):
        try:
            title, memory = " ".join(process.cmdline()), process.memory_info()
        except psutil.Error:  # gone meanwhile
            continue
        kind = next((kind for start, kind in KINDS.items() if title.startswith(start)), None)
        if kind or process.pid == run.pid:
            yield kind or "driver", memory.rss - memory.shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    given = parser.parse_args()
    print("| workers | rows | seconds | driver | reader | a worker | object store |\n" + "| --- " * 7 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for workers in given.workers:
            for rows in given.rows:
                output = f"{folder}/{workers}-{rows}"
                command = [sys.executable, "-m", "ray_jobs", "embed", "tiny", str(made(folder, rows)), output]
                seconds, most = measured([*command, "--workers", str(workers)])
                sizes = " | ".join(f"{size / MIB:.0f}" if size else "" for size in most.values())
                print(f"| {workers} | {rows} | {seconds:.0f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
