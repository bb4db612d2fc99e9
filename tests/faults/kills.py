"""`make ray-kills`: `train` and `sweep` on Ray with one of their processes killed at a moment, both drawn from a seed.

Where a run does not survive, the same command is given again. What comes of it is compared with an undisturbed run bit
for bit, and no trial may be trained again once it has finished. Writes its table in docs/reliability.md."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path

import yaml

from lightning_modules.trace import VARIABLE
from tests.faults.harness import parents
from tests.faults.rows import KILLS, write
from tests.helpers import recipe_tree

# What is killed -> a part of the process's command line; the driver is the command itself, and Tune's controller is a
# thread in it.
KINDS: dict[str, dict[str, str]] = {
    "train": {
        "a worker": "RayTrainWorker",
        "Ray Train's controller": "TrainController",
        "the raylet": "raylet/raylet",
        "the GCS": "gcs_server",
        "the dashboard agent": "ray::DashboardAgent",
        "the driver": "",
    },
    "sweep": {
        "a trial's process": "ImplicitFunc",
        "the raylet": "raylet/raylet",
        "the GCS": "gcs_server",
        "the dashboard agent": "ray::DashboardAgent",
        "the driver, and Tune's controller in it": "",
    },
}
COMMANDS = {
    "train": ["train", "--workers", "2"],
    "sweep": ["sweep", "--stage", "para", "--grid", "lr=1e-2,1e-3,1e-4", "--by", "quora/accuracy"],
}
STAGE = {"epochs": 3, "checkpoint_steps": 3, "lr": 1e-3}
STAGES = {"train": ("one", "two", "three"), "sweep": ("para",)}  # whose workers are the same processes
# When a kill falls, of a stage of the command -> from which share of its steps to which. What comes before a later
# stage's first step comes when the last one of the stage before is done.
PHASES = {"amid": (0.05, 0.9), "when its last step is done": (1.0, 1.0)}
START = ("before the first step", 0, 0)
NOT_STRUCK = "not struck"
PATIENCE = 240.0  # seconds for a run to end by itself, on a busy machine


@dataclass(frozen=True)
class Kill:
    """lines: how many steps, over all ranks, stages and trials, are to be done when it falls; pause: seconds after
    that. phase: where in which stage it is."""

    command: str
    what: str
    lines: int
    pause: float
    phase: str


@dataclass(frozen=True)
class Row:
    kill: Kill
    outcome: str
    seconds: float
    wrong: list[str]


class Experiment:
    """One experiment in a folder of its own; `start` may be called again once it has ended."""

    def __init__(self, folder: Path, command: str) -> None:
        folder.mkdir()
        self.folder, self.command = folder, command
        tree = recipe_tree(**STAGE)
        tree["stages"] = [{**tree["stages"][0], "name": name} for name in STAGES[command]]
        (folder / "small.yaml").write_text(yaml.safe_dump(tree))

    @cached_property
    def place(self) -> Path:
        return self.folder / "runs" / "small"

    def start(self) -> subprocess.Popen[bytes]:
        verb, *words = COMMANDS[self.command]
        command = [sys.executable, "-m", "ray_jobs", verb, str(self.folder / "small.yaml"), *words]
        environment = {**os.environ, VARIABLE: str(self.folder / "trace"), "OMP_NUM_THREADS": "1"}
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                [*command, "--storage", str(self.folder / "runs"), "--experiment", "small"],
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    def lines(self) -> int:
        return sum(file.read_bytes().count(b"\n") for file in (self.folder / "trace").glob("*.jsonl"))

    def finished(self) -> dict[str, int]:
        """What training writes of the stages that have finished -> when it was written."""
        folders = [outcome.parent for outcome in self.place.glob("*/outcome.json")]
        kept = ("outcome.json", "metrics.jsonl", "bundle/*", "checkpoints/*/*")
        files = [file for folder in folders for pattern in kept for file in folder.glob(pattern)]
        return {str(file.relative_to(self.place)): file.stat().st_mtime_ns for file in files}

    def result(self) -> dict[str, str]:
        """Stage -> a hash of its weights, its last checkpoint's weights and moments, and what was measured of it."""
        stages = json.loads((self.place / "experiment.json").read_text())["stages"]
        return {name: self._result(self.place / stage["trainer"]) for name, stage in stages.items()}

    def _result(self, trainer: Path) -> str:
        newest = max(trainer.glob("checkpoints/*"))
        files = [trainer / "bundle" / "weights.safetensors", newest / "weights.safetensors"]
        content = [file.read_bytes() for file in [*files, newest / "optimizer.safetensors"]]
        outcome = json.loads((trainer / "outcome.json").read_text())
        facts = [outcome[key] for key in ("steps", "examples_seen", "metrics", "intervals", "kept_epoch")]
        records = [json.loads(line) for line in (trainer / "metrics.jsonl").read_text().splitlines()]
        measured = [[record.get(key) for key in ("epoch", "steps", "metrics")] for record in records]
        return hashlib.sha256(b"".join([*content, json.dumps([facts, measured]).encode()])).hexdigest()


def family(process: int) -> dict[int, str]:
    """The processes that descend from that one -> their command lines, itself among them."""
    found, known = {}, parents()
    for child in known:
        at = child
        while at in known and at != process:
            at = known[at]
        if at == process:
            with suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def strike(experiment: Experiment, process: subprocess.Popen[bytes], kill: Kill, draw: random.Random) -> dict[int, str]:
    """Kills when the moment has come; the run's processes right before, none where the moment did not come."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if experiment.lines() >= kill.lines:
            time.sleep(kill.pause)
            sign = KINDS[kill.command][kill.what]
            there = family(process.pid)
            found = sorted(at for at, line in there.items() if sign in line) if sign else [process.pid]
            if found and process.poll() is None:
                os.kill(draw.choice(found), signal.SIGKILL)
                return there
        time.sleep(0.02)
    return {}


def end(process: subprocess.Popen[bytes], children: dict[int, str]) -> str:
    """Waits for the run to end, and leaves none of its processes; says how it ended."""
    try:
        status = process.wait(PATIENCE)
        said = "went on" if status == 0 else f"ended ({'killed' if status < 0 else f'status {status}'})"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        said = f"hung for {PATIENCE:.0f} s"
    until = time.monotonic() + 20
    left = {at for at, line in children.items() if at != process.pid and _is(at, line)}
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = {at for at in left if _is(at, children[at])}
    for at in left:
        with suppress(ProcessLookupError):
            os.kill(at, signal.SIGKILL)
    return said


def _is(process: int, line: str) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") == line
    return False


def survive(folder: Path, number: int, kill: Kill, expected: dict[str, str]) -> Row:
    """One kill, and all that comes after it."""
    experiment, began = Experiment(folder / f"{number:02d}", kill.command), time.monotonic()
    process = experiment.start()
    children = strike(experiment, process, kill, random.Random(f"{kill}"))
    before = experiment.finished()
    said = end(process, children) if children else f"{NOT_STRUCK}: {end(process, children)}"
    starts = 0
    while process.returncode and starts < 2:
        process, starts = experiment.start(), starts + 1
        again = end(process, {})
        said += f"; the same command {again}" if process.returncode else "; the same command went on"
    return Row(kill, said, time.monotonic() - began, wrong(experiment, process, before, expected))


def wrong(
    experiment: Experiment, process: subprocess.Popen[bytes], before: dict[str, int], expected: dict[str, str]
) -> list[str]:
    if process.returncode:
        return [f"ended with {process.returncode}"]
    found, after = experiment.result(), experiment.finished()
    other = [f"{name} is another" for name in expected if found.get(name) != expected[name]]
    return other + [f"{file} was written again" for file, when in before.items() if after.get(file) != when]


def drawn(seed: int, count: int, totals: dict[str, int], commands: list[str]) -> list[Kill]:
    """Each kind in turn, in an order by the seed; each phase of each stage in turn, at a moment by the seed."""
    draw = random.Random(seed)
    kinds = [(command, what) for command in commands for what in KINDS[command]]
    order = [kind for _ in range(-(-count // len(kinds))) for kind in draw.sample(kinds, len(kinds))][:count]
    moments = {}
    for command in commands:
        there = _moments(command, totals[command])
        moments[command] = cycle(draw.sample(there, k=len(there)))
    found = []
    for command, what in order:
        phase, first, last = next(moments[command])
        found.append(Kill(command, what, draw.randint(first, last), draw.random(), phase))
    return found


def _moments(command: str, total: int) -> list[tuple[str, int, int]]:
    """(phase, the fewest steps done in it, the most) of each stage of a command that takes so many steps in all."""
    stages = STAGES[command]
    each = total // len(stages)
    return [START] + [
        (f"{stage}, {phase}", round((at + first) * each), round((at + last) * each))
        for at, stage in enumerate(stages)
        for phase, (first, last) in PHASES.items()
    ]


def table(rows: list[Row], seed: int) -> str:
    bad, struck = sum(bool(row.wrong) for row in rows), sum(not row.outcome.startswith(NOT_STRUCK) for row in rows)
    late = f"; ended before its own: {len(rows) - struck}" if struck < len(rows) else ""
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}: {struck} kills, {bad} wrong{late}.",
        "",
        "| command | killed | when | steps done | what happened | s | against undisturbed |",
        "| --- " * 7 + "|",
    ]
    for row in rows:
        kill, equal = row.kill, "; ".join(row.wrong) or "equal"
        facts = kill.command, kill.what, kill.phase, f"{kill.lines}", row.outcome, f"{row.seconds:.0f}", equal
        lines.append(f"| {' | '.join(facts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1, help="kills beside each other")
    parser.add_argument("--only", choices=list(KINDS), help="kills of that command alone")
    parser.add_argument("--dry", action="store_true", help="leave docs/reliability.md as it is")
    options = parser.parse_args()
    commands = [options.only] if options.only else list(KINDS)
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        whole = {command: Experiment(folder / command, command) for command in commands}
        for command, experiment in whole.items():
            status = experiment.start().wait()
            assert status == 0, f"undisturbed {command}: {status}: {(experiment.folder / 'output.txt').read_text()}"
        totals = {command: experiment.lines() for command, experiment in whole.items()}
        expected = {command: experiment.result() for command, experiment in whole.items()}
        print(f"undisturbed: steps {totals}", flush=True)
        rows = []
        with ThreadPoolExecutor(options.at_once) as pool:
            flying = [
                pool.submit(partial(survive, folder, number, kill, expected[kill.command]))
                for number, kill in enumerate(drawn(options.seed, options.count, totals, commands))
            ]
            for future in flying:
                rows.append(row := future.result())
                print(f"{row.kill}: {row.outcome}, {row.seconds:.0f} s: {row.wrong or 'equal'}", flush=True)
                for _ in row.wrong[:1]:
                    place = folder / f"{len(rows) - 1:02d}" / "output.txt"
                    print(place.read_text()[-3000:], flush=True)
        if not options.dry:
            write(KILLS, table(rows, options.seed))
    sys.exit(any(row.wrong for row in rows))


if __name__ == "__main__":
    main()
