"""The table of docs/reliability.md, a row a job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from tests.crashpoints.runs import Tried
from tests.faults import rows

COMMAND = "make crashpoints"
SHARED = 50  # of the states, one in that many is tried for each commit: some 40 s of CPU
KINDS = ("kill", "power", "cut off", "lagging")
HEADER = ("job", "operations logged", "kill", "power loss", "S3, cut off", "S3, listings lag", "wrong", "seconds")


def table(all_tried: Sequence[Tried], seed: int | str, seconds: float) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "| --- " * len(HEADER) + "|"]
    sums = Counter[str]()
    for tried in all_tried:
        kinds = Counter(state.kind for state in tried.states)
        sums += kinds + Counter(wrong=len(tried.wrong), operations=len(tried.log.operations))
        lines.append(_line(tried.name, len(tried.log.operations), kinds, len(tried.wrong), tried.seconds))
    lines.append(_line("**all**", sums["operations"], sums, sums["wrong"], seconds))
    states = sum(sums[kind] for kind in KINDS)
    said = f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}: {states} states in {seconds:.0f} s, {sums['wrong']} wrong"
    return "\n".join([*lines, "", f"{said} (`python -m tests.crashpoints --seed {seed}`)."])


def _line(name: str, operations: int, kinds: Counter[str], wrong: int, seconds: float) -> str:
    cells = [name, operations, *(kinds[kind] or "" for kind in KINDS), wrong, f"{seconds:.0f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def write(table: str) -> None:
    rows.write(COMMAND, table)
