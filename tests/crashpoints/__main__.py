"""`make crashpoints`, or `python -m tests.crashpoints`: crash states of the commands, each gone on from.

A job is run once, and every operation on its files is logged: by strace, or, where they lie in a bucket, by the server.
What a kill or a power loss may leave after each of them is laid out as a storage of its own; the same command is run
there, and what comes of it is compared with the run that nothing disturbed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.commit import commit
from tests.crashpoints.runs import Runner, Tried, undisturbed, warm_up
from tests.crashpoints.table import SHARED, table, write

STATES = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="draws the states")
    parser.add_argument("--states", type=int, default=STATES, help="how many, of all jobs")
    parser.add_argument("--drawn", action="store_true", help=f"only one in {SHARED}, drawn by the commit's hash")
    parser.add_argument("--job", help="only this one")
    parser.add_argument("--only", metavar="JOB:STATE", help="one state, with what its run said")
    parser.add_argument("--logs", type=Path, help="where the output of wrong states goes")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    given = parser.parse_args()
    name, _, number = (given.only or given.job or "").partition(":")
    seed, states = (commit(), given.states // SHARED) if given.drawn else (given.seed, given.states)
    warm_up()
    began = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="minibert-crash-", dir=memory if memory.is_dir() else None) as scratch:
        runner, all_tried = Runner(Path(scratch).resolve(), given.logs), list[Tried]()
        for tried in undisturbed(runner.folder, seed, states, name):
            print(f"{tried.name}: {len(tried.log.operations)} operations, {len(tried.states)} states", flush=True)
            runner.run(tried, [int(number)] if number else range(len(tried.states)))
            print(f"{tried.name}: {len(tried.wrong)} wrong, {tried.seconds:.0f} s", flush=True)
            if number:
                print(tried.wrong.get(int(number), "as it should be"))
            all_tried.append(tried)
    seconds, wrong = time.monotonic() - began, sum(len(tried.wrong) for tried in all_tried)
    cpu = sum(sum(resource.getrusage(of)[:2]) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"seed {seed}: {runner.done} states, {wrong} wrong, {seconds:.0f} s, {cpu:.0f} s of CPU")
    if given.write:
        write(table(all_tried, seed, seconds))
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
