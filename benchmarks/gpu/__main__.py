"""The table of the GPU check, and its exit status: `python -m benchmarks.gpu`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu import __doc__ as about
from benchmarks.gpu.cost import memory, profile, speed
from benchmarks.gpu.exact import optimizers, parity, ranks, resume
from benchmarks.gpu.material import At, Line

ABSENT = 3  # the exit status where there is no GPU
KEPT = Path(__file__).parents[1] / "gpu.json"

PARTS: dict[str, Callable[[At], Iterator[Line]]] = {
    "parity": parity, "optimizers": optimizers, "resume": resume, "ranks": ranks, "memory": memory, "speed": speed,
    "profile": profile,
}  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Runs the parts, prints their table, and returns the exit status."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless said")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models")
    given = parser.parse_args(words)
    if unknown := [part for part in given.parts if part not in PARTS]:
        parser.error(f"{unknown[0]}: valid: {', '.join(PARTS)}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic kernels need, before CUDA starts
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: torch sees no GPU here; --device cpu --quick tries its parts without one", file=sys.stderr)
        return ABSENT
    at, lines = At(given.device, given.quick), []
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n| what | found | wanted | |\n| --- | --- | --- | --- |")
    for part in given.parts or PARTS:
        for line in PARTS[part](at):
            lines.append(line)
            word = {True: "held", False: "**not held**", None: ""}[line.held]
            print(f"| {line.what} | {line.found} | {line.wanted} | {word} |", flush=True)
    if given.device == "cuda" and not given.quick and not given.parts:
        facts = {"card": name, "torch": torch.__version__, "lines": [asdict(line) for line in lines]}
        KEPT.write_text(json.dumps(facts, indent=1) + "\n")
    return int(any(line.held is False for line in lines))


if __name__ == "__main__":
    sys.exit(main())
