"""Many ranks over many rows, as far as one machine can show it: `python -m benchmarks.ranks --data DATA`.

The project's own code does a rank's work, but for the model: it opens a table of so many examples of a few tokens,
plans an epoch, and makes its slices of some batches. The first and the last rank do so, each in a process of its own.
What ranks ask of an S3 server is counted for a small stage on one, two and four of them. Prints two
tables.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.duel import ROOT
from benchmarks.material import Material, memory_mb
from benchmarks.training import claimed, stage_recipe, write_pairs

BATCH, BATCHES, TOKENS = 2048, 200, 3
KEY, TABLE = "thin", "cache/tokens/thin.safetensors"
WORLDS = (1, 2, 4)
OWN = "RssAnon"  # pages of mapped files are the system's, and of all ranks of a machine together


def write_table(storage: Any, rows: int) -> None:
    """Pairs of sentences of three tokens, as the cache keeps them."""
    import torch

    from multitask.storage.tensors import write_tensors

    names = torch.arange(rows)
    digits = torch.stack([names // 10**place % 10 + ord("0") for place in range(8, -1, -1)], dim=1).to(torch.uint8)
    tensors = {
        "input_ids": torch.randint(5, 30_000, (2 * rows * TOKENS,), dtype=torch.int32),
        "offsets": torch.arange(2 * rows + 1) * TOKENS,
        "labels": torch.rand(rows),
        "ids": digits.flatten(),
        "id_offsets": torch.arange(rows + 1) * digits.shape[1],
    }
    facts = {"source": "thin", "sha256": "0" * 64, "sentences": "2", "quarantined": "[]"}
    write_tensors(storage, TABLE, tensors, facts, KEY)


def one_rank(job: dict[str, Any], rank: int, world: int) -> dict[str, float]:
    """What a rank takes until its first slice, and for some more; the model is not there."""
    from lightning_modules.data import StageData
    from multitask.data.batches import collate
    from multitask.experiment.stage_job import StageJob
    from multitask.recipe.stages import Stage

    class Plain:
        """Stands for an objective, of which only `batch` is asked."""

        @staticmethod
        def batch(task: str, rows: Any, weights: Any, when: str) -> Any:
            return collate(task, data.tables[task], rows, weights)

    found, own = StageJob.of(job), memory_mb(OWN)
    began = time.perf_counter()
    data = StageData(found, Stage.model_validate(found.stage))
    opened = time.perf_counter()
    slices = data.slices(Plain, 0, 0, rank, world)  # type: ignore[arg-type]
    slices[0]
    planned = time.perf_counter()
    some = range(1, min(BATCHES, len(slices)))
    for at in some:
        slices[at]
    ended = time.perf_counter()
    data.slices(Plain, 0, len(slices) - 1, rank, world)[0]  # type: ignore[arg-type]
    return {
        "open": opened - began, "plan": planned - opened, "batch": (ended - planned) / len(some),
        "resume": time.perf_counter() - ended, "memory": memory_mb(OWN) - own,
    }  # fmt: skip


def ranks(rows: int, world: int) -> None:
    from multitask.storage.storage import Storage

    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder), Path(folder), 0)
        material.write("sts-dev", ("sentence1", "sentence2", "similarity"), [("a", "b", 1), ("a", "c", 2)])
        material.write("sts-train", ("sentence1", "sentence2", "similarity"), [("a", "b", 1)] * 8)
        job = claimed(material, stage_recipe(batch_size=BATCH, encoder="tiny"))
        began = time.perf_counter()
        write_table(Storage(job.owner.storage), rows)
        written, file = time.perf_counter() - began, Path(job.owner.storage, TABLE)
        header = int.from_bytes(file.open("rb").read(8), "little")
        print(f"{rows:,} pairs: {file.stat().st_size / 1e9:.1f} GB of tokens, checksums {header / 1e3:.0f} kB, "
              f"written in {written:.0f} s\n")  # fmt: skip
        job = replace(job, data=replace(job.data, train={"sts": TABLE}))
        given = Path(folder, "job.json")
        given.write_text(json.dumps(job.to_json()))
        print("| rank | open, check, s | plan, first slice, s | a slice, ms | resume at the end, s | own memory, MB |")
        print("| --- " * 6 + "|")
        for rank in (0, world - 1):
            command = [sys.executable, "-m", "benchmarks.ranks", "--job", str(given)]
            done = subprocess.run(
                [*command, "--rank", str(rank), "--ranks", str(world)], cwd=ROOT, check=True, stdout=subprocess.PIPE
            )
            at = json.loads(done.stdout)
            print(f"| {rank} of {world} | {at['open']:.1f} | {at['plan']:.1f} | {1000 * at['batch']:.1f} | "
                  f"{at['resume']:.1f} | {at['memory']:,.0f} |", flush=True)  # fmt: skip


def requests(data: Path, world: int) -> None:
    """Counts what a small stage's ranks ask of S3, and says what so many would ask: all but a fixed part is each
    rank's own."""
    from tests.ranks import run_ranks
    from tests.s3 import S3

    server = S3()
    os.environ |= server.environment
    counts: dict[int, Counter[str]] = {}
    for number in WORLDS:
        server.new_bucket()
        with tempfile.TemporaryDirectory() as folder:
            material = Material(data, Path(folder), 256)
            write_pairs(material)
            tree = stage_recipe(encoder="tiny")  # one checkpoint: how many more there are depends on their uploads
            job = claimed(material, tree, server.uri)
            server.proxy.counts.clear()
            run_ranks(job, world=number)
            counts[number] = Counter(server.proxy.counts)
    print("| requests of a stage of 8 steps, 1 checkpoint | " + " | ".join(f"{n} ranks" for n in WORLDS)
          + f" | {world}, extrapolated |\n" + "| --- " * (len(WORLDS) + 2) + "|")  # fmt: skip
    for method in sorted({method for found in counts.values() for method in found}):
        found = [counts[number][method] for number in WORLDS]
        each, fixed = np.polyfit(WORLDS, found, 1)
        print(f"| {method} | {' | '.join(map(str, found))} | {fixed + each * world:.0f} |")
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--data", type=Path, help="the CS224N directory, for the requests")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)  # of one rank, in a process of its own
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(one_rank(json.loads(given.job.read_text()), given.rank, given.ranks)))
        return
    ranks(given.rows, given.ranks)
    if given.data:
        print()
        requests(given.data, given.ranks)


if __name__ == "__main__":
    main()
