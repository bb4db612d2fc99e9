"""What DDP's gradients cost over a slow link: `python -m tests.cluster.link` brings up two hosts, and writes a table.

MiniLM (22.7 M parameters, 91 MB of float32 gradients a step) is trained by a submitted job on two ranks, one a host;
while it runs, the hosts' cables are limited by `tc`. What is measured is the time from step to step.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import yaml

from tests.cluster.lab import ROOT
from tests.cluster.onprem import Job, OnPrem, brought_up
from tests.faults.rows import write

COMMAND = "python -m tests.cluster.link"
KEPT = ROOT / "runs" / "lab-link.json"
RATES = {"not limited": None, "1 Gbit/s": "1gbit", "100 Mbit/s": "100mbit"}
WARM, STEPS = 2, 8  # of each rate: steps passed over, steps measured
# How gradients travel -> options of the command line.
WAYS: dict[str, tuple[str, ...]] = {"float32": (), "bf16": ("--set", "defaults.compress=bf16")}
RECIPE: dict[str, Any] = {
    "name": "link",
    "encoder": "minilm-l6",
    "data": "sample",
    "tasks": {"quora": {"head": "mlp"}},
    "defaults": {"batch_size": 8, "epochs": 1, "lr": 1.0e-5, "validate": "stage"},
    "stages": [{"name": "para", "objective": "supervised", "tasks": ["quora"], "train": "full-model"}],
}


def measure(cluster: OnPrem, way: str) -> dict[str, float]:
    """Rate -> median seconds a step."""
    job = Job(cluster, f"link-{way}")
    recipe = job.folder / "link.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    job.submit(str(recipe), "--workers", "2", *WAYS[way])
    try:
        job.wait_for("para", 1)
        return {name: _step_seconds(cluster, job, rate) for name, rate in RATES.items()}
    finally:
        for host in cluster.lab.hosts:
            host.limit(None)
        job.end()


def _step_seconds(cluster: OnPrem, job: Job, rate: str | None) -> float:
    for host in cluster.lab.hosts:
        host.limit(rate)
    step, times = job.furthest("para"), []
    for _ in range(WARM + STEPS):
        step += 1
        times.append(job.wait_for("para", step))
    seconds = [later - earlier for earlier, later in zip(times[WARM - 1 :], times[WARM:], strict=False)]
    return statistics.median(seconds)


def table(found: dict[str, dict[str, float]]) -> str:
    lines = ["| link | " + " | ".join(f"{way}, s a step" for way in found) + " |", "| --- " * (len(found) + 1) + "|"]
    lines += [f"| {rate} | " + " | ".join(f"{found[way][rate]:.2f}" for way in found) + " |" for rate in RATES]
    return "\n".join(lines)


def keep(found: dict[str, dict[str, float]]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    """--kept: writes the page's table from what `make lab-test` measured."""
    if "--kept" not in sys.argv:
        with brought_up(2) as cluster:
            keep({way: measure(cluster, way) for way in WAYS})
    found = table(json.loads(KEPT.read_text()))
    write(COMMAND, found)
    print(found)


if __name__ == "__main__":
    main()
