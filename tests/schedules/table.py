"""The table of docs/reliability.md: a row a kind of schedule."""

from __future__ import annotations

from collections.abc import Sequence

from tests.schedules.play import Played

HEAD = ("schedules", "number", "faults", "starts", "killed", "ended with status 2, then gone on", "wrong", "longest, s")


def table(found: Sequence[Played]) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    for kind in sorted({one.kind for one in found}):
        some = [one for one in found if one.kind == kind]
        lines.append(_row(kind, some))
    return "\n".join([*lines, _row("all", found)])


def _row(kind: str, some: Sequence[Played]) -> str:
    sums = [sum(getattr(one, name) for one in some) for name in ("faults", "starts", "kills", "refusals")]
    wrong, longest = sum(bool(one.wrong) for one in some), max((one.seconds for one in some), default=0.0)
    return f"| {kind} | {len(some)} | {' | '.join(map(str, sums))} | {wrong} | {longest:.1f} |"
