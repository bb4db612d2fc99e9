"""Quora's paraphrases by each tool: python -m benchmarks.compare --data CS224N

Every tool starts from the same MiniLM, as transformers reads it, has the same rows, batches of 32, a learning rate of
5e-5 and one epoch, in a process of its own, in turns. Lines are those of its script that are neither empty nor a
comment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
TOOLS = {
    "minibert": "minibert.yaml",
    "sentence-transformers' CrossEncoder": "cross_encoder.py",
    "transformers' Trainer": "transformers_trainer.py",
    "plain Lightning": "plain_lightning.py",
}


def take(source: Path, target: Path, count: int) -> None:
    """Writes a file's header and its first rows."""
    with open(source, encoding="utf-8") as file, open(target, "w", encoding="utf-8") as out:
        out.writelines(line for line, _ in zip(file, range(count + 1), strict=False))


def run(tool: str, folder: Path) -> dict[str, Any]:
    """Seconds, peak memory in MB, and dev accuracy of one run."""
    script = HERE / TOOLS[tool]
    if script.suffix == ".yaml":
        words = [sys.executable, "-m", "ray_jobs", "train", str(script), "--fresh", "--json", "--quiet"]
        words += ["--storage", str(folder / f"runs-{time.time_ns()}")]
    else:
        words = [sys.executable, str(script), str(folder / "encoder")]
    began = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    took = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{tool}: {err[-2000:]}")
    if script.suffix == ".yaml":
        accuracy = json.loads(out)["stages"][-1]["metrics"]["quora/accuracy"]
    else:
        accuracy = json.loads(out.splitlines()[-1])["accuracy"]
    return {"seconds": took, "accuracy": accuracy}


def measured(tool: str, folder: Path) -> dict[str, Any]:
    """What `run` gives, with the peak memory of its process, from a child that has no other."""
    code = "import resource, sys, json; from benchmarks.compare.__main__ import run; from pathlib import Path; "
    code += f"found = run({tool!r}, Path({str(folder)!r})); "
    code += "print(json.dumps({**found, 'mb': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000}))"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if said.returncode:
        raise RuntimeError(said.stderr[-2000:])
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def lines_of(tool: str) -> int:
    text = (HERE / TOOLS[tool]).read_text().split('"""')[-1]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the CS224N directory")
    parser.add_argument("--train", type=int, default=2048, help="pairs")
    parser.add_argument("--dev", type=int, default=1024, help="pairs")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        take(given.data / "quora-train.csv", folder / "train.csv", given.train)
        take(given.data / "quora-dev.csv", folder / "dev.csv", given.dev)
        export = [sys.executable, "-m", "ray_jobs", "export", "minilm-l6", "--format", "transformers", "--quiet"]
        subprocess.run([*export, "--output", str(folder / "encoder")], check=True)
        found: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
        for turn in range(given.rounds):
            for tool in list(TOOLS)[:: -1 if turn % 2 else 1]:
                found[tool].append(measured(tool, folder))
                print(tool, json.dumps(found[tool][-1]), flush=True)
    print("| with | lines | seconds | peak MB | dev accuracy |\n| --- | --- | --- | --- | --- |")
    for tool, passes in found.items():
        seconds, mb = (median(one[fact] for one in passes) for fact in ("seconds", "mb"))
        print(f"| {tool} | {lines_of(tool)} | {seconds:.0f} | {mb:.0f} | {passes[-1]['accuracy']:.3f} |")


if __name__ == "__main__":
    main()
