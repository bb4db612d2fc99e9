"""What a stage costs on Ray beside its steps: from its start to its first step, from its last step to its end.

    python -m benchmarks.ray_fixed_cost [--workers 2] [--turns 3]

The demo's three stages (tiny encoder, packaged sample data), measured with and without Ray: what both pay (data, dev
measurements, bundle) is the stage's own work, the rest is Ray's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STAGES = ("para", "sts", "sst")


def train(folder: Path, workers: int) -> dict[str, float]:
    """Part -> seconds, of one run of the demo."""
    command = [sys.executable, "-m", "ray_jobs", "train", "demo", "--storage", str(folder), "--workers", str(workers)]
    words = ["--set", "defaults.epochs=1", "--set", "defaults.validate=stage"]
    trace = folder / "trace"
    environment = {**os.environ, "MINIBERT_TRACE": str(trace)}
    began = time.time()
    with open(folder / "output.txt", "w") as log:
        subprocess.run([*command, *words], cwd=ROOT, env=environment, check=True, stdout=log, stderr=log)
    ended = time.time()
    lines = [json.loads(line) for file in trace.glob("*.jsonl") for line in file.read_text().splitlines()]
    (driver,) = (folder / "demo" / "logs").glob("driver-*.log")
    starts = [*driver_says(driver, "starts, attempt"), ended]
    return parts(lines, starts) | {"whole": ended - began}


def driver_says(log: Path, words: str) -> list[float]:
    """When the driver's log has a line with those words."""
    found = [line[:23] for line in log.read_text().splitlines() if words in line]
    return [datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp() for stamp in found]


def parts(lines: list[dict[str, Any]], starts: list[float]) -> dict[str, float]:
    found = {}
    for at, stage in enumerate(STAGES):
        times = [line["time"] for line in lines if line["stage"] == stage]
        found[f"{stage}: to the first step"] = min(times) - starts[at]
        found[f"{stage}: from the last step"] = starts[at + 1] - max(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {0: [], given.workers: []}
    with tempfile.TemporaryDirectory() as base:
        for turn in range(given.turns):
            for workers, runs in found.items():
                folder = Path(base, f"{turn}-{workers}")
                folder.mkdir()
                runs.append(train(folder, workers))
                print(workers, "workers:", {part: round(value, 1) for part, value in runs[-1].items()}, flush=True)
    print("| seconds, median | no Ray | Ray |\n| --- | --- | --- |")
    for part in found[0][0]:
        none, ray = (statistics.median(run[part] for run in runs) for runs in found.values())
        print(f"| {part} | {none:.1f} | {ray:.1f} |")


if __name__ == "__main__":
    main()
