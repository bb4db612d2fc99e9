"""The tables of docs/reliability.md: a row a fault test, kept below runs/ until `python -m tests.faults.rows` writes
them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
FAULTS, LAB, KILLS = "make faults", "make lab-test", "make ray-kills"
KEPT = {FAULTS: ROOT / "runs" / "faults.json", LAB: ROOT / "runs" / "lab.json"}  # by the command that makes the table


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


def record(row: Row, command: str = FAULTS) -> None:
    rows = [old for old in kept(command) if old.test != row.test]
    KEPT[command].parent.mkdir(exist_ok=True)
    KEPT[command].write_text(json.dumps([asdict(entry) for entry in [*rows, row]], indent=2) + "\n")


def kept(command: str) -> list[Row]:
    file = KEPT[command]
    return [Row(**entry) for entry in json.loads(file.read_text())] if file.exists() else []


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


def put(page: str, command: str, table: str) -> str:
    """The page with that table in the place of the command's."""
    begin, end = f"<!-- table: {command} -->", "<!-- end of table -->"
    before, found, rest = page.partition(begin)
    assert found, f"{PAGE}: no {begin}"
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def write(command: str, table: str) -> None:
    PAGE.write_text(put(PAGE.read_text(), command, table))


def main() -> None:
    for command in KEPT:
        if rows := kept(command):
            write(command, table(rows))


if __name__ == "__main__":
    main()
