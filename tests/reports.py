"""A small experiment written by hand, for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from multitask.experiment.experiment_file import StageRecord
from multitask.experiment.results import row
from multitask.experiment.stage_job import node_key
from multitask.report.blocks import ReportTable
from multitask.report.reading import Evidence, read_evidence
from multitask.storage.storage import Storage, file_at

NASTY = "<script>alert('x')</script> & \"co\" | *b*"
PAPER = {
    "title": f"ReportTable 1 {NASTY}",
    "source": "a paper, table 1",
    "metrics": {"sst/accuracy": "Sentiment", "sts/pearson": "Similarity"},
    "conditions": {
        "Baseline": {"stage": "encoder", "paper": {"sst/accuracy": 0.318}},
        "Ours, late": {"stage": "late", "paper": {"sst/accuracy": 0.5}},
    },
}


def trainer(name: str, variant: int = 0) -> str:
    return f"TorchTrainer_{name.encode().hex():0<5.5}_00000_{variant}_2026-11-22_07-57-57"


def stage(name: str, start: str, scores: dict[str, float | None], variant: int = 0, **facts: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"seconds": 65.0, "epochs": 1, "steps": 20, "rows": 100, "examples_per_second": 3.25}
    known |= {"trainer": trainer(name, variant), "objective": "supervised", "train": "full-model", "from": start}
    known |= {"status": "finished", "metrics": scores, "variant": variant, "seed": 11711 + variant}
    return row(name, **(known | facts))


ENCODER = row("encoder", status="measured", seed=11711, metrics={"sst/accuracy": 0.25, "sts/pearson": 0.5})
FINISHED = [
    ENCODER,
    stage("sts", "encoder", {"sst/accuracy": 0.2, "sts/pearson": 0.75, "overall/mean": 0.6}),
    stage("sst", "sts", {"sst/accuracy": 0.5, "sts/pearson": 0.75, "overall/mean": 0.7}),
]


SCORES = {"lr=1e-05": 0.25, "lr=0.001": 0.75, "lr=0.0001": 0.5, "lr=0.01": None}


def trial_trainer(number: int, variant: int) -> str:
    return f"TorchTrainer_{number:05x}_00000_{variant}_2026-11-22_07-57-57"


def swept(by: str = "sts/pearson", variant: int = 0, scores: dict[str, float | None] = SCORES) -> list[dict[str, Any]]:
    """The trials of sts by their settings, a failed one where there is no score, and the stage that the best becomes
    where less is not better."""
    names = [f"sts@{label}" for label in scores]
    best = max((name for name in scores if scores[name] is not None), key=lambda name: scores[name] or 0.0)
    sweep = {"stage": "sts", "by": by, "trials": names, "best": f"sts@{best}"}
    trials = [
        stage(
            f"sts@{label}", "encoder", {by: score} if score is not None else {}, variant, sweep=sweep,
            settings={"lr": float(label.partition("=")[2])}, trainer=trial_trainer(number, variant),
            status="failed" if score is None else "finished",
        )
        for number, (label, score) in enumerate(scores.items())
    ]  # fmt: skip
    chosen = next(trial for trial in trials if trial["name"] == sweep["best"])
    return [{**ENCODER, "variant": variant, "seed": 11711 + variant}, *trials, {**chosen, "name": "sts"}]


def write(folder: Path | str, stages: list[dict[str, Any]], encoder: str = "tiny", **recipe: Any) -> Storage:
    home = Storage(str(folder))
    data = {
        "source": {"train": f"{NASTY}.csv", "dev": "dev.csv"},
        "rows_used": {"train": 1234, "dev": 56},
        "quarantined": {"train": [f"line 3: {NASTY}"], "dev": []},
        "fingerprint": {"train": "ab" * 32, "dev": "cd" * 32},
        "majority_baseline": 0.2625,
    }
    results = {
        "schema": 1, "experiment": "small", "recipe": "small", "encoder": {"source": encoder, "fingerprint": "ef" * 32},
        "data": {"sst": data}, "versions": {"python": "3.11.7"}, "stages": stages,
    }  # fmt: skip
    home.write_json("results.json", results)
    trained = [one for one in stages if one["trainer"]]
    known = {node_key(one["name"], one["variant"]): _record(one["trainer"], "12" * 32) for one in trained}
    name = file_at(home.uri)[1]
    made = {"schema": 1, "experiment": name, "attempt": 1, "writer": "", "stages": known, "superseded": []}
    home.write_json("experiment.json", made)
    named = [{"name": name, "tasks": [name]} for name in dict.fromkeys(one["name"] for one in trained)]
    home.write_bytes("recipe.yaml", yaml.safe_dump({"stages": named, **recipe}, sort_keys=False).encode())
    for one in stages:
        if one["trainer"] and one["metrics"]:
            record = {"epoch": 1, "steps": 20, "seconds": 1.0, "metrics": one["metrics"], "why": {}}
            home.at(one["trainer"]).write_bytes("metrics.jsonl", (json.dumps(record) + "\n").encode())
    return home


def add_dev(writer: Any, one: dict[str, Any]) -> None:
    """A stage's dev metrics as TensorBoard events: what a finished run's end with. writer: a SummaryWriter."""
    for name, value in one["metrics"].items():
        writer.add_scalar(f"dev/{name}", value, 20)


def _record(trainer: str, fingerprint: str) -> dict[str, Any]:
    return asdict(StageRecord(trainer, fingerprint, "encoder", "finished", 1, {}))


def evidence(folder: Path, stages: list[dict[str, Any]], **more: Any) -> Evidence:
    return read_evidence(write(folder, stages, **more))


def texts(table: ReportTable | None) -> dict[str, list[str]]:
    """Row header -> the other cells' texts."""
    assert table
    return {line[0].text: [cell.text for cell in line[1:]] for line in table.rows}


def column(table: ReportTable | None, stage: str, title: str) -> str:
    assert table
    return texts(table)[stage][table.header.index(title) - 1]
