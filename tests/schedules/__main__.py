"""`python -m tests.schedules --seed S --count N [--only NUMBER]`: drivers against an S3 that lags and refuses.

Each schedule's commands must end with the undisturbed run's results, bit for bit, however often they are started.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.schedules.drivers import forked, references
from tests.schedules.plans import plan
from tests.schedules.play import Played, Player
from tests.schedules.table import table

AT_ONCE = 2


def played(seed: int, numbers: list[int], expected: dict[str, Any], folder: Path) -> Iterator[Played]:
    """Each schedule in a process of its own, some at a time, as they end."""
    waiting, running = list(numbers), dict[int, int]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number = waiting.pop(0)
            file = folder / f"{number}.json"

            def play(number: int = number, file: Path = file) -> None:
                file.write_text(json.dumps(asdict(Player(plan(seed, number), expected).play())))

            running[forked(play, folder / f"{number}.txt")] = number
        process, _ = os.wait()
        number = running.pop(process)
        file = folder / f"{number}.json"
        if file.exists():
            yield Played(**json.loads(file.read_text()))
        else:
            yield Played(number, plan(seed, number).kind, (folder / f"{number}.txt").read_text()[-2000:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--only", type=int)
    parser.add_argument("--write", action="store_true", help="the table of docs/reliability.md")
    given = parser.parse_args()
    numbers = list(range(given.count)) if given.only is None else [given.only]
    folder, began, found = Path(tempfile.mkdtemp(prefix="schedules-")), time.monotonic(), []
    expected = references(folder)
    for one in played(given.seed, numbers, expected, folder):
        found.append(one)
        what = (
            f"WRONG: {one.wrong}" if one.wrong else f"{one.starts} starts, {one.kills} kills, {one.refusals} refusals"
        )
        print(f"{one.number:4} {one.seconds:5.1f} s  {one.kind}: {what}; {one.counts}", flush=True)
    shutil.rmtree(folder)
    print(table(found))
    print(f"{len(found)} schedules of seed {given.seed} in {time.monotonic() - began:.0f} s")
    if given.write:
        from tests.faults.rows import write

        write("make schedules", f"{table(found)}\n\n{datetime.now(UTC):%Y-%m-%d}, seed {given.seed}.")
    sys.exit(any(one.wrong for one in found))


if __name__ == "__main__":
    main()
