"""How long one waits: for the help, and for the first training step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import yaml

from benchmarks.material import Material
from benchmarks.side import Pass
from benchmarks.training import stage_recipe, write_pairs

MINIBERT = [sys.executable, "-m", "ray_jobs"]  # what the command `minibert` is


def help(material: Material) -> Callable[[], Pass]:
    def make_pass() -> Pass:
        began = time.perf_counter()
        subprocess.run([*MINIBERT, "--help"], check=True, stdout=subprocess.DEVNULL)
        return Pass(time.perf_counter() - began, 1)

    return make_pass


def first_step(material: Material) -> Callable[[], Pass]:
    """From the command to the first step's line of its trace; tokens, encoder and dev measurement in the cache."""
    from lightning_modules.trace import VARIABLE

    write_pairs(material)
    recipe, storage = material.folder / "recipe.yaml", material.folder / "storage"
    recipe.write_text(yaml.safe_dump(stage_recipe()))
    passes = iter(range(1000))

    def run(name: str) -> float:
        trace = material.folder / f"trace-{name}"
        command = [*MINIBERT, "train", str(recipe), "--data", str(material.folder), "--storage", str(storage)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--experiment", name], env={**os.environ, VARIABLE: str(trace)}, stdout=subprocess.DEVNULL
        )
        while not any(path.stat().st_size for path in trace.glob("*")):
            assert process.poll() is None, "ended before its first step"
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
        return seconds

    run("warm")
    return lambda: Pass(run(f"run-{next(passes)}"), 1)
