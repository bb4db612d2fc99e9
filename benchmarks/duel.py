"""Two sides in turns, each in a process of its own, both with the same threads; what stays is medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.material import memory_mb
from benchmarks.side import Pass

ROOT = Path(__file__).parents[1]
BEFORE = "@before"  # how the name of a side ends that another build's packages run


@dataclass(frozen=True)
class Measured:
    """A side: every pass, and the most memory that its process and their children held, in MB."""

    passes: list[Pass]
    peak_mb: float

    @property
    def rate(self) -> float:
        """Units a second, the median."""
        return statistics.median(made.units / made.seconds for made in self.passes)

    @property
    def seconds(self) -> float:
        return statistics.median(made.seconds for made in self.passes)

    def fact(self, name: str) -> float:
        return statistics.median(made.facts[name] for made in self.passes)


class Process:
    """One side, waiting; between its passes it takes no processor."""

    def __init__(self, side: str, data: Path, folder: Path, amount: int, threads: int, before: Path | None) -> None:
        self.side, self.log = side, folder.with_suffix(".log")
        name = side.removesuffix(BEFORE)
        command = [sys.executable, "-m", "benchmarks.side", name, "--data", str(data), "--folder", str(folder)]
        command += ["--amount", str(amount), "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        place = ROOT
        if before and side.endswith(BEFORE):  # these benchmarks, of that tree's packages
            place = folder.with_suffix(".tree")
            place.mkdir()
            (place / "benchmarks").symlink_to(ROOT / "benchmarks")
            environment["PYTHONPATH"] = f"{place}{os.pathsep}{before}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=place, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.passes: list[Pass] = []
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args)}: {self.log.read_text()[-2000:]}")  # type: ignore[arg-type]
        return line

    def make_pass(self) -> Pass:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.passes.append(Pass(**json.loads(self._answer())))
        return self.passes[-1]

    def end(self) -> Measured:
        peak = max((memory_mb("VmHWM", process) for process in _family(self.process.pid)), default=0.0)
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)
        return Measured(self.passes, peak)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def _family(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(each for child in children for each in _family(int(child)))]


def duel(
    sides: list[str], data: Path, folder: Path, amount: int, threads: int, rounds: int, before: Path | None = None
) -> list[Measured]:
    """One after the other makes a pass, in each round; the order turns about. before: the tree of the build that sides
    ending in `@before` are of."""
    processes: list[Process] = []
    try:
        for side in sides:
            processes.append(Process(side, data, folder / side.replace(":", "-"), amount, threads, before))
        for turn in range(rounds):
            for process in processes if turn % 2 == 0 else processes[::-1]:
                made = process.make_pass()
                print(f"    {process.side}: {made.seconds:.2f} s", flush=True)
        return [process.end() for process in processes]
    finally:
        for process in processes:
            process.kill()
