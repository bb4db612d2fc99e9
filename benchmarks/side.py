"""One side of a comparison, in a process of its own: `python -m benchmarks.side MODULE:FUNCTION ...`.

It prepares, then makes a pass for every line that it is sent, and answers with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.material import Material


@dataclass(frozen=True)
class Pass:
    """seconds for so many units; facts: what else the row shows or compares."""

    seconds: float
    units: float
    facts: dict[str, float] = field(default_factory=dict)


Side = Callable[[Material], Callable[[], Pass]]  # prepares, untimed -> makes a pass

OURS = ("steps", "scale")  # modules of which all sides are the project's own
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def _as_the_command() -> None:
    """Does what the build's `minibert` does about a process's memory before torch is there; an earlier one may not."""
    program = find_spec("ray_jobs.cli.program")
    if program and program.origin and LARGE_PAGES in Path(program.origin).read_text():
        os.environ.setdefault(LARGE_PAGES, "1")
    with suppress(ImportError):
        import_module("ray_jobs.runners.memory").keep_memory()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--amount", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # what the libraries print goes elsewhere
    os.dup2(2, 1)
    module, _, function = given.side.partition(":")
    if "ours" in function or module in OURS:
        _as_the_command()
    import torch

    torch.set_num_threads(given.threads)
    side: Side = getattr(import_module(f"benchmarks.{module}"), function)
    make_pass = side(Material(given.data, given.folder, given.amount))
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(make_pass())), file=answers, flush=True)


if __name__ == "__main__":
    main()
