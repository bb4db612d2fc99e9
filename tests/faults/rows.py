"""The table of docs/reliability.md: a row a fault test, kept in runs/faults.json until `python -m tests.faults.rows`
writes it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT, PAGE = ROOT / "runs" / "faults.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: make faults -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """seconds: until a step was done that had not been done before. repeated: steps taken twice. equal: weights,
    optimizer moments and fed ids against an undisturbed run."""

    test: str
    fault: str
    outcome: str
    seconds: float | None
    repeated: int
    equal: str


def record(row: Row) -> None:
    rows = [old for old in kept() if old.test != row.test]
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps([asdict(entry) for entry in [*rows, row]], indent=2) + "\n")


def kept() -> list[Row]:
    return [Row(**entry) for entry in json.loads(KEPT.read_text())] if KEPT.exists() else []


def table(rows: list[Row]) -> str:
    lines = [
        "| fault | what happened | recovery, s | steps repeated | against undisturbed | test |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        name = row.test.partition("[")[0]
        lines.append(f"| {row.fault} | {row.outcome} | {seconds} | {row.repeated} | {row.equal} | `-k {name}` |")
    return "\n".join(lines)


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(kept())}\n{END}{after}")


if __name__ == "__main__":
    main()
