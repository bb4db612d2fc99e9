"""What checkpointing to S3 costs: the same steps with a checkpoint every 50 and with none, in turns.

    python -m benchmarks.checkpoint_overhead --data ../shared/data/cs224n

A supervised stage of MiniLM on Quora, batch 32, this process; S3 is moto's server in a process of its own on this
machine, so what the server itself computes takes cores from the training. Compared is the stage's own training time.
Then the CPU seconds of one checkpoint of that size are told apart: ours, and the server's, which would be elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PARAMETERS = 22_700_000  # of MiniLM-L6


def recipe(rows: int) -> dict[str, object]:
    stage = {"name": "para", "tasks": ["quora"], "train": "full-model", "lr": 5.0e-5, "validate": "stage"}
    return {
        "name": "overhead", "encoder": "minilm-l6", "tasks": {"quora": {"head": "mlp"}},
        "defaults": {"epochs": 1, "batch_size": 32, "max_examples": rows, "checkpoint_minutes": 1000.0},
        "stages": [stage],
    }  # fmt: skip


def cut(data: str, folder: Path, rows: int) -> None:
    """The head of the Quora files: the dev set is measured too, and is not what is timed."""
    for name, lines in {"quora-train.csv": rows, "quora-dev.csv": 200}.items():
        with open(Path(data, name)) as whole:
            (folder / name).write_text("".join(islice(whole, lines + 1)))


def training_seconds(name: str, given: argparse.Namespace, environment: dict[str, str], *words: str) -> float:
    """Trains once under that name; the seconds that its steps took, and what lay between them."""
    import fsspec

    command = [sys.executable, "-m", "ray_jobs", "train", f"{given.folder}/overhead.yaml", "--data", given.folder]
    command += ["--storage", "s3://runs/overhead", "--experiment", name, *words]
    subprocess.run(command, check=True, env={**os.environ, **environment}, cwd=ROOT, stdout=subprocess.DEVNULL)
    fs = fsspec.filesystem("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], key="test", secret="never-shown")
    (outcome,) = fs.glob(f"runs/overhead/{name}/*/outcome.json")
    return float(json.loads(fs.cat_file(outcome))["training_seconds"])


def cpu_seconds(process: int) -> float:
    """Of a process so far, all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_checkpoint(server: int, count: int = 4) -> tuple[float, float]:
    """CPU seconds that one checkpoint of a MiniLM takes here and in the server, mean of all but the first."""
    import torch

    from multitask.experiment.checkpoints import Checkpoint, CheckpointStore, Position, State
    from multitask.storage.storage import Storage

    tensors = {f"{name}/{at}": torch.randn(PARAMETERS // 20) for name in "wmv" for at in range(20)}
    weights = {name: value for name, value in tensors.items() if name.startswith("w")}
    moments = {name: value for name, value in tensors.items() if not name.startswith("w")}
    found = []
    with CheckpointStore(Storage("s3://runs/cpu")) as store:
        for step in range(count):
            before = cpu_seconds(os.getpid()), cpu_seconds(server)
            store.save(Checkpoint(State(position=Position(0, step, step)), weights, moments))
            store.flush()
            found.append((cpu_seconds(os.getpid()) - before[0], cpu_seconds(server) - before[1]))
    ours, theirs = (statistics.fmean(values) for values in zip(*found[1:], strict=True))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, default=6400)
    parser.add_argument("--turns", type=int, default=2)
    given = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-m", "tests.s3"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        lines = [server.stdout.readline().split(maxsplit=1)[1].strip() for _ in range(6)]
        environment = dict(line.split("=", 1) for line in lines)
        with tempfile.TemporaryDirectory() as given.folder:
            Path(given.folder, "overhead.yaml").write_text(yaml.safe_dump(recipe(given.rows)))
            cut(given.data, Path(given.folder), given.rows)
            found: dict[str, list[float]] = {"with": [], "without": []}
            for turn in range(given.turns):
                for kind in found:
                    words = ["--set", "defaults.checkpoint_steps=50"] if kind == "with" else []
                    found[kind].append(training_seconds(f"{kind}-{turn}", given, environment, *words))
                    print(f"{kind} checkpoints: {found[kind][-1]:.1f} s", flush=True)
        os.environ |= environment
        ours, theirs = one_checkpoint(server.pid)
        print(f"CPU seconds of a checkpoint: {ours:.1f} here, {theirs:.1f} in the server")
        if found["without"]:
            between = 50 * 32 / given.rows * statistics.fmean(found["without"]) * (os.cpu_count() or 1)
            cost = statistics.fmean(found["with"]) / statistics.fmean(found["without"]) - 1
            print(f"{given.rows // 32} steps, a checkpoint every 50: {cost:+.1%} of the step time")
            print(f"CPU of a checkpoint in what all cores do in 50 steps: {ours / between:.1%}, {theirs / between:.1%}")
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
