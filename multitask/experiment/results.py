"""results.json: what came of an experiment, a row a stage; its schema is multitask/assets/results.schema.json."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from statistics import fmean, stdev
from typing import Any

from multitask.data.tokens import TokenTable
from multitask.measure.metrics import lower_is_better, majority_baseline
from multitask.recipe.sweeps import said
from multitask.tasks.own import definitions
from multitask.tasks.table import Split, TaskSpec

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


def data_facts(spec: TaskSpec, tables: dict[Split, TokenTable], used: int) -> dict[str, Any]:
    """What a task's numbers rest on: files, rows used, rows left out, what a constant answer scores on dev, and the
    definition of an own task.

    used: training rows after `max_examples`, the most of any stage.
    """
    own = definitions({spec.name: spec})
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
        "majority_baseline": majority_baseline(tables["dev"].labels.double(), spec.label.kind),
    } | ({"definition": own[spec.name]} if own else {})


def row(name: str, **facts: Any) -> dict[str, Any]:
    """A row with every key; what is not known of a stage yet is null."""
    empty: dict[str, Any] = dict.fromkeys(
        ("trainer", "objective", "train", "from", "epochs", "steps", "seconds", "examples_per_second", "rows",
         "log", "submission_id", "bundle", "settings", "sweep")
    )  # fmt: skip
    defaults: dict[str, Any] = {"variant": 0, "seed": 0, "status": "pending", "workers": 0}
    defaults |= {"metrics": {}, "why": {}, "intervals": {}}
    return {"name": name, **empty, **defaults, **facts}


def cell(value: float | None, why: str | None = None) -> str:
    """A metric as the papers print it, .749; a dash where it is null."""
    if value is None:
        return "-" if not why else f"- ({why})"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


Rows = Sequence[Mapping[str, Any]]  # of results.json


@dataclass(frozen=True)
class Summary:
    """A value over several seeds."""

    mean: float
    sd: float | None
    """The sample standard deviation (n - 1); None for one seed."""
    n: int
    """How many seeds there are."""


def summary(values: Sequence[float]) -> Summary | None:
    """Mean and deviation of some values; None of no values."""
    if not values:
        return None
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def seeds_cell(values: list[float | None], why: str | None = None) -> str:
    """One seed's metric, or several seeds' as `.749 ± .003`; null where one of them is."""
    known = [value for value in values if value is not None]
    found = summary(known) if len(known) == len(values) else None
    if found is None:
        return cell(None, why)
    return cell(found.mean) if found.sd is None else f"{cell(found.mean)} ± {cell(found.sd)}"


def table_rows(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the result table: a stage or trial a row, a swept setting or metric a column; several seeds in
    one row. The score that made a trial the best one has a star.

    There is one column of perplexities, over all tasks together, for the width of a terminal.
    """
    metrics = list(dict.fromkeys(name for stage in results["stages"] for name in stage["metrics"]))
    metrics = [name for name in metrics if not name.endswith("/perplexity") or lower_is_better(name)]
    settings = swept_settings(results["stages"])
    body = []
    for name in dict.fromkeys(stage["name"] for stage in results["stages"]):
        runs = [stage for stage in results["stages"] if stage["name"] == name]
        first, stars = runs[0], decided(runs)
        scores = [
            seeds_cell([run["metrics"].get(key) for run in runs], first["why"].get(key)) + "*" * (key in stars)
            for key in metrics
        ]
        seconds = "" if first["seconds"] is None else f"{sum(run['seconds'] or 0 for run in runs):.0f}"
        speed = "" if first["examples_per_second"] is None else f"{first['examples_per_second']:.1f}"
        tried = [setting_cell(runs, key) for key in settings]
        body.append([name, *tried, first["train"] or "", *scores, seconds, speed])
    return ["stage", *settings, "train", *metrics, "seconds", "examples/s"], body


def is_trial(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of a sweep's trials, which stand beside the stages."""
    return bool(row.get("sweep")) and row["sweep"]["stage"] != row["name"]


def leaves(rows: Rows) -> list[Mapping[str, Any]]:
    """The finished stages that no other stage starts from."""
    used = {row["from"] for row in rows} | {"encoder"}
    return [row for row in rows if row["status"] == "finished" and row["name"] not in used and not is_trial(row)]


def swept_settings(rows: Rows) -> list[str]:
    """The settings that some trial among the rows varies."""
    return list(dict.fromkeys(key for row in rows for key in row.get("settings") or {}))


def setting_cell(runs: Rows, key: str) -> str:
    """The value of a setting in a trial, or in a swept stage's best one; several seeds may have chosen different
    values."""
    return ", ".join(dict.fromkeys(said(run["settings"][key]) for run in runs if key in (run.get("settings") or {})))


def decided(runs: Rows) -> set[str]:
    """The metrics by which a trial, under one of its seeds or more, is the best of its sweep."""
    return {run["sweep"]["by"] for run in runs if run.get("sweep") and run["sweep"]["best"] == run["name"]}


def sweep_lines(rows: Rows) -> list[str]:
    """What each sweep came to, seed by seed: `sts: lr=0.001 is the best of 3 trials by sts/pearson, .822`."""
    swept = [row for row in rows if row.get("sweep") and row["sweep"]["stage"] == row["name"]]
    several = any(row["variant"] for row in swept)
    return [_sweep_line(row, rows, f" (seed {row['seed']})" if several else "") for row in swept]


def _sweep_line(row: Mapping[str, Any], rows: Rows, seed: str) -> str:
    sweep, count = row["sweep"], len(row["sweep"]["trials"])
    if not sweep["best"]:
        return f"{row['name']}{seed}: {count} trials, not all finished; {sweep['by']} will decide"
    trials = [trial for trial in rows if trial["variant"] == row["variant"] and trial["name"] in sweep["trials"]]
    ends = Counter(trial["status"] for trial in trials if trial["status"] != "finished")
    others = f" ({', '.join(f'{number} {end}' for end, number in ends.items())})" if ends else ""
    best, score = sweep["best"].partition("@")[2], cell(row["metrics"].get(sweep["by"]))
    return f"{row['name']}{seed}: {best} is the best of {count} trials{others} by {sweep['by']}, {score}"
