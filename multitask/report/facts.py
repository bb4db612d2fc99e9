"""The report's tables of facts: which runs the numbers come from, and which data."""

from __future__ import annotations

from multitask.report.blocks import Cell, ReportTable
from multitask.report.numbers import duration, number
from multitask.report.reading import Evidence, Run

SHORT = 12  # of a fingerprint's 64 digits
LINES_SHOWN = 5  # quarantined lines named


def trainers_table(evidence: Evidence) -> ReportTable:
    """A row a trainer; a swept stage's is its best trial's."""
    named: dict[str, list[Run]] = {}
    for run in evidence.runs:
        if run.row["trainer"]:
            named.setdefault(run.row["trainer"], []).append(run)
    rows = []
    for trainer, (run, *others) in named.items():
        seconds = run.row["seconds"]
        facts = [trainer, run.fingerprint[:SHORT], run.row["seed"], run.row["workers"]]
        facts += [run.row["steps"], None if seconds is None else duration(seconds), run.row["log"]]
        name = ", ".join(one.name for one in (run, *others))
        rows.append([Cell(name), *(Cell("" if fact is None else str(fact)) for fact in facts)])
    header = ["stage", "trainer", "fingerprint", "seed", "workers", "steps", "time", "log"]
    note = "Each trainer's folder holds its TensorBoard events, metrics.jsonl and bundle. 0 workers: in one process."
    return ReportTable("Runs", header, rows, notes=[note], words=2)


def data_table(evidence: Evidence) -> ReportTable:
    rows = []
    for task, facts in evidence.results["data"].items():
        for split, source in facts["source"].items():
            bad = facts["quarantined"].get(split, [])
            more = [f"and {len(bad) - LINES_SHOWN} more"] if len(bad) > LINES_SHOWN else []
            base = number(facts["majority_baseline"]) if split == "dev" else ""
            rows.append(
                [
                    Cell(task),
                    Cell(split),
                    Cell(source),
                    Cell(f"{facts['rows_used'].get(split, 0):,}"),
                    Cell(str(len(bad)), "; ".join([*bad[:LINES_SHOWN], *more])),
                    Cell(facts["fingerprint"].get(split, "")[:SHORT]),
                    Cell(base),
                ]
            )
    header = ["task", "split", "file", "rows used", "quarantined", "sha256", "majority class"]
    return ReportTable("Data", header, rows, words=3)
