"""`make bitflips`: every kind of file that the program reads back, hit at 200 places each, and what comes of it.

A hit is repeated by `python -m tests.bitflips --seed S --only KIND:NUMBER`. The exit status is 1 where results changed
in silence or a command ended in a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.bitflips import worlds
from tests.bitflips.commands import End, run, warm
from tests.bitflips.hits import Hit, hits
from tests.bitflips.kinds import KINDS, Kind
from tests.bitflips.outcomes import ENDS, FAULTS, Leaves, differences, judged, leaves, moving

COMMAND = "make bitflips"


@dataclass(frozen=True)
class Undisturbed:
    """A kind's command without a hit."""

    file: Path  # in the state
    expected: Leaves
    masked: set[str]
    end: End


class Range:
    """Two worlds below a folder, and the hits on one of them."""

    def __init__(self, folder: Path, seed: str) -> None:
        self.folder, self.seed = folder, seed
        self._undisturbed: dict[tuple[str, str], tuple[End, Leaves, set[str]]] = {}
        for number, name in enumerate(("one", "other")):
            worlds.build(folder / name, number)

    def file(self, kind: Kind, world: str) -> Path | None:
        """The kind's file in a world's state, relative; the largest of several."""
        state = self.folder / world / kind.state
        last = (
            next(path.parent for path in sorted((state / "runs").glob("*/*/predictions")))
            if "{last}" in kind.pattern
            else Path()
        )
        pattern = kind.pattern.replace("{last}", str(last.relative_to(state)) if last != Path() else "")
        found = sorted(state.glob(pattern), key=lambda path: (-path.stat().st_size, str(path)))
        return found[0].relative_to(state) if found else None

    def undisturbed(self, kind: Kind) -> Undisturbed | None:
        """None where this build writes no such file. The same for all kinds that one command reads in one state."""
        file, key = self.file(kind, "one"), (kind.state, str(kind.command))
        if file is None:
            return None
        if key not in self._undisturbed:
            (end, one), (_, other) = (self.after(kind, None, f"undisturbed-{os.getpid()}-{at}") for at in range(2))
            if end.status:
                raise RuntimeError(f"{kind.name}: undisturbed it ends with {end.status}:\n{end.said}")
            self._undisturbed[key] = end, one, moving(kind, one, other)
        end, expected, masked = self._undisturbed[key]
        return Undisturbed(file, expected, masked, end)

    def after(self, kind: Kind, change: tuple[Path, bytes] | None, name: str) -> tuple[End, Leaves]:
        """The command in a copy of the state with that file changed."""
        place = self.folder / name
        shutil.copytree(self.folder / "one" / kind.state, place, copy_function=os.link)
        try:
            if change:
                file, content = change
                (place / file).unlink()  # the link, not the world's own
                (place / file).write_bytes(content)
            end = run(kind.command, place)
            said = End(end.status, end.out.replace(str(place), "WORLD"), end.said.replace(str(place), "WORLD"))
            return said, leaves(kind, end, place)
        finally:
            shutil.rmtree(place)

    def drawn(self, kind: Kind, file: Path, count: int) -> list[Hit]:
        return hits(self.content("one", kind, file), self.other(kind, file), f"{self.seed} {kind.name}", count)

    def content(self, world: str, kind: Kind, file: Path) -> bytes:
        return (self.folder / world / kind.state / file).read_bytes()

    def other(self, kind: Kind, file: Path) -> bytes:
        """The other world's file of the kind."""
        found = self.file(kind, "other")
        assert found, kind.name
        return self.content("other", kind, found)

    def hit(self, kind: Kind, sound: Undisturbed, hit: Hit, name: str) -> tuple[str, list[str], str]:
        """What it came to, what differs, and what was said."""
        content = hit.of(self.content("one", kind, sound.file), self.other(kind, sound.file))
        end, found = self.after(kind, (sound.file, content), name)
        state = self.folder / "one" / kind.state
        came = judged(kind, state / sound.file, end, found, sound.expected, sound.masked, sound.end.said)
        return came, differences(found, sound.expected, sound.masked), end.said


def main() -> int:
    asked = _asked()
    warm()
    with tempfile.TemporaryDirectory(prefix="minibert-bitflips-") as folder:
        began = time.monotonic()
        where = Range(Path(folder), asked.seed)
        print(f"two worlds in {time.monotonic() - began:.0f} s", flush=True)
        if asked.only:
            return _repeat(where, asked.only)
        wanted = asked.kinds.split(";")
        chosen = [kind for kind in KINDS.values() if any(part in kind.name for part in wanted)]
        hits = {kind: asked.hits for kind in chosen}
        if asked.sample:
            drawn = random.Random(asked.seed).choices(chosen, k=asked.sample)
            hits = dict(Counter(drawn))
        results = _spread(where, hits, asked.jobs)
    table = _table(results)
    print(table)
    print(f"{sum(sum(row.values()) for row in results.values())} hits in {time.monotonic() - began:.0f} s")
    if asked.write:
        _write(table, asked)
    return int(any(row[end] for row in results.values() for end in FAULTS))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bitflips", description=__doc__)
    parser.add_argument("--seed", default="1", help="What the places are drawn from.")
    parser.add_argument("--hits", type=int, default=200, help="Hits a kind.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Processes.")
    parser.add_argument("--kinds", default="", help="Only kinds with that in their names; several with ; between them.")
    parser.add_argument("--sample", type=int, help="As many hits of kinds that are drawn from the seed, too.")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="One hit, and what it says.")
    parser.add_argument("--write", action="store_true", help="Put the table into docs/reliability.md.")
    return parser.parse_args()


def _repeat(where: Range, only: str) -> int:
    name, _, number = only.rpartition(":")
    kind = KINDS[name]
    sound = where.undisturbed(kind)
    assert sound, f"{name}: no such file"
    hit = where.drawn(kind, sound.file, int(number) + 1)[int(number)]
    came, differs, said = where.hit(kind, sound, hit, "hit")
    print(f"{sound.file}: {hit}\n{said}\n{came}; differs: {differs[:10]}")
    return int(came in FAULTS)


def _spread(where: Range, hits: dict[Kind, int], jobs: int) -> dict[str, Counter[str]]:
    """Every job takes the next kind that nobody has; a pipe's bytes are the kinds' numbers. hits: of each kind."""
    kinds = list(hits)
    todo, done = os.pipe(), where.folder / "results.jsonl"
    os.write(todo[1], bytes(range(len(kinds))))
    os.close(todo[1])
    children = []
    for _ in range(jobs):
        if not (child := os.fork()):
            status = 1
            try:
                _job(where, hits, todo[0], done)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise RuntimeError("a job failed")
    rows = [json.loads(line) for line in done.read_text().splitlines()]
    found = {name: Counter(ends) for name, ends in rows}
    return {kind.name: found[kind.name] for kind in kinds if kind.name in found}


def _job(where: Range, hits: dict[Kind, int], todo: int, done: Path) -> None:
    kinds = list(hits)
    while taken := os.read(todo, 1):
        kind, began = kinds[taken[0]], time.monotonic()
        sound = where.undisturbed(kind)
        if sound is None:
            print(f"{kind.name}: no such file in this build", flush=True)
            continue
        ends: Counter[str] = Counter()
        for number, hit in enumerate(where.drawn(kind, sound.file, hits[kind])):
            came, differs, said = where.hit(kind, sound, hit, f"hit-{os.getpid()}")
            ends[came] += 1
            if came in FAULTS:
                told = ", ".join(differs[:3]) if came == "SILENT" else " | ".join(said.splitlines()[-2:])
                print(f"{came} {kind.name}:{number} ({hit}): {told[:400]}", flush=True)
        print(f"{kind.name}: {dict(ends)} in {time.monotonic() - began:.0f} s", flush=True)
        with done.open("a") as file:
            file.write(json.dumps([kind.name, ends]) + "\n")


def _table(results: dict[str, Counter[str]]) -> str:
    lines = [f"| file | hits | {' | '.join(ENDS).lower()} |", "| --- " * (len(ENDS) + 2) + "|"]
    total: Counter[str] = sum(results.values(), Counter())
    for name, ends in [*results.items(), ("all", total)]:
        lines.append(f"| {name} | {sum(ends.values())} | {' | '.join(str(ends[end]) for end in ENDS)} |")
    return "\n".join(lines)


def _write(table: str, asked: argparse.Namespace) -> None:
    from tests.faults.rows import write

    day = time.strftime("%Y-%m-%d", time.gmtime())
    write(COMMAND, f"{day}, `python -m tests.bitflips --seed {asked.seed} --hits {asked.hits} --write`\n\n{table}")


if __name__ == "__main__":
    sys.exit(main())
