"""Speed against others, on real data: `python -m benchmarks --data ../shared/data/cs224n [ROW ...] [--quick]`.

Both sides of a row take turns, each in a process of its own, with the same encoder, data, batch size, loss and threads;
what counts is the median. Results go to benchmarks/results.json and docs/benchmarks.md; a row that is measured
alone replaces its own line there. With --quick nothing is written. Rows against the build before need its tree, such as
`git worktree add` makes: --before PATH.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.duel import ROOT, Measured, duel
from benchmarks.rows import ROWS, Row

KEPT = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table: make bench -->", "<!-- end of table -->"


def measure(rows: list[Row], data: Path, quick: bool, before: Path | None = None) -> list[dict[str, Any]]:
    """The entries of rows of one contest: all of their sides, in turns."""
    contest = rows[0].contest
    amount, rounds = (contest.quick or contest.amount, 1) if quick else (contest.amount, contest.rounds)
    sides = list(dict.fromkeys(side for row in rows for side in row.sides))
    with tempfile.TemporaryDirectory() as folder:
        found = dict(zip(sides, duel(sides, data, Path(folder), amount, contest.threads, rounds, before), strict=True))
    facts = {"amount": amount, "rounds": rounds, "threads": contest.threads}
    return [entry_of(row, {side: found[side] for side in row.sides}, facts) for row in rows]


def entry_of(row: Row, found: dict[str, Measured], facts: dict[str, int]) -> dict[str, Any]:
    sides = list(found.values())
    value = row.value(sides)
    entry = {
        "name": row.name, "value": value, "aim": row.aim, "reached": value >= row.aim if row.more else value <= row.aim,
        **facts, "sides": {side: side_facts(one) for side, one in found.items()},
        "day": f"{datetime.date.today()}", "torch": version("torch"),
    }  # fmt: skip
    if row.equal:
        entry["differs"] = difference(row.equal[0], sides)
        entry["reached"] &= entry["differs"] <= row.equal[1]
    return entry


def side_facts(one: Measured) -> dict[str, Any]:
    seconds = [round(made.seconds, 3) for made in one.passes]
    return {"seconds": seconds, "rate": one.rate, "peak_mb": round(one.peak_mb), "facts": one.passes[-1].facts}


def difference(fact: str, found: list[Measured]) -> float:
    """Relative, between both sides."""
    ours, theirs = (one.fact(fact) for one in found)
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def line(row: Row, entry: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    word = "reached" if entry["reached"] else "**short**"
    aim = f"{'>=' if row.more else '<='} {row.show.format(row.aim).lstrip('+')}"
    value = row.show.format(entry["value"])
    if "differs" in entry and row.equal:
        value += f", {row.equal[0]} differs by {entry['differs']:.0e}" if entry["differs"] else f", same {row.equal[0]}"
    rates = " / ".join(f"{side['rate']:.4g}" for side in entry["sides"].values())
    peaks = " / ".join(str(side["peak_mb"]) for side in entry["sides"].values())
    amount = f"{entry['amount']} {row.contest.unit} x {entry['rounds']}"
    return f"| {row.what} | {row.against} | {aim} | {value} | {word} | {rates} | {peaks} | {amount} |"


def table(entries: list[dict[str, Any]]) -> str:
    head = "| what | against | aim | measured | | a second: ours / theirs | peak MB | of |"
    by_name = {entry["name"]: entry for entry in entries}
    lines = [line(row, by_name[row.name]) for row in ROWS if row.name in by_name]
    return "\n".join([head, "| --- " * 8 + "|", *lines])


def keep(entry: dict[str, Any]) -> None:
    old = json.loads(KEPT.read_text())["rows"] if KEPT.exists() else []
    entries = [*(other for other in old if other["name"] != entry["name"]), entry]
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    KEPT.write_text(json.dumps({"machine": machine, "rows": entries}, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(entries)}\n{END}{rest.partition(END)[2]}")


def is_wanted(row: Row, named: list[str], quick: bool, before: Path | None) -> bool:
    """Rows by name, or all that there is enough for."""
    if named:
        return row.name in named
    return not (quick and not row.contest.quick) and (before is not None or not row.asks_before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=", ".join(row.name for row in ROWS))
    parser.add_argument("--data", type=Path, required=True, help="the CS224N directory")
    parser.add_argument("--before", type=Path, help="the tree of another build, for the rows against it")
    parser.add_argument("--quick", action="store_true", help="one short round of the main rows, in three minutes")
    given = parser.parse_args()
    unknown = set(given.rows) - {row.name for row in ROWS}
    if not given.before and (asking := [row.name for row in ROWS if row.name in given.rows and row.asks_before]):
        parser.error(f"{', '.join(asking)}: give --before the tree of the build to compare with")
    if unknown or not given.data.is_dir():
        parser.error(f"no such row: {', '.join(unknown)}" if unknown else f"--data {given.data}: no such directory")
    wanted = [row for row in ROWS if is_wanted(row, given.rows, given.quick, given.before)]
    entries = []
    for _, together in groupby(wanted, key=lambda row: id(row.contest)):
        rows = list(together)
        print(f"[{len(entries) + 1}/{len(wanted)}] {', '.join(row.name for row in rows)}", flush=True)
        for row, entry in zip(rows, measure(rows, given.data, given.quick, given.before), strict=True):
            print(line(row, entry), flush=True)
            entries.append(entry)
            if not given.quick:
                keep(entry)
    print("\n" + table(entries))


if __name__ == "__main__":
    main()
