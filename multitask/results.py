"""results.json: what came of an experiment, a row a stage; its schema is multitask/assets/results.schema.json."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from multitask.data.tokens import TokenTable
from multitask.metrics import majority_baseline
from multitask.tasks import TASKS, Split

PACKAGES = ("torch", "pytorch-lightning", "ray", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """The versions that a result depends on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in ("minibert-multitask", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def data_facts(task: str, tables: dict[Split, TokenTable], used: int) -> dict[str, Any]:
    """What a task's numbers rest on: files, rows used, rows left out, and what a constant answer scores on dev.

    used: training rows after `max_examples`, the most of any stage.
    """
    rows = {split: len(table) for split, table in tables.items()}
    if "train" in tables:
        rows["train"] = used
    return {
        "source": {split: table.source for split, table in tables.items()},
        "rows_used": rows,
        "quarantined": {
            split: [f"line {row.line}: {row.reason}" for row in table.quarantined] for split, table in tables.items()
        },
        "fingerprint": {split: table.sha256 for split, table in tables.items()},
        "majority_baseline": majority_baseline(tables["dev"].labels.double(), TASKS[task].label.kind),
    }


def row(name: str, **facts: Any) -> dict[str, Any]:
    """A row with every key; what is not known of a stage yet is null."""
    empty: dict[str, Any] = dict.fromkeys(
        ("trainer", "objective", "train", "from", "epochs", "steps", "seconds", "examples_per_second", "rows",
         "log", "submission_id", "bundle")
    )  # fmt: skip
    defaults = {"variant": 0, "seed": 0, "status": "pending", "workers": 0, "metrics": {}, "why": {}}
    return {"name": name, **empty, **defaults, **facts}


def cell(value: float | None, why: str | None = None) -> str:
    """A metric as the papers print it, .749; a dash where it is null."""
    if value is None:
        return "-" if not why else f"- ({why})"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def table_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a stage a row, a metric a column."""
    metrics: list[str] = []
    for stage in results["stages"]:
        metrics += [name for name in stage["metrics"] if name not in metrics]
    body = []
    for stage in results["stages"]:
        scores = [cell(stage["metrics"].get(name), stage["why"].get(name)) for name in metrics]
        seconds = "" if stage["seconds"] is None else f"{stage['seconds']:.0f}"
        speed = "" if stage["examples_per_second"] is None else f"{stage['examples_per_second']:.1f}"
        body.append([stage["name"], stage["train"] or "", *scores, seconds, speed])
    return ["stage", "train", *metrics, "seconds", "examples/s"], body
