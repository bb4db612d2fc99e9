"""How long one waits: for the help, a bundle, the first training step, Ray's stages, the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import count

import yaml

from benchmarks.material import Material
from benchmarks.side import Pass
from benchmarks.training import stage_recipe, write_pairs
from benchmarks.training import train as trained
from lightning_modules.trace import VARIABLE

MINIBERT = [sys.executable, "-m", "ray_jobs"]  # what the command `minibert` is
FEW = ("--set", "defaults.max_examples=120")


def help(material: Material) -> Callable[[], Pass]:
    def make_pass() -> Pass:
        began = time.perf_counter()
        subprocess.run([*MINIBERT, "--help"], check=True, stdout=subprocess.DEVNULL)
        return Pass(time.perf_counter() - began, 1)

    return make_pass


def first_step(material: Material) -> Callable[[], Pass]:
    """From the command to the first step's line of its trace; tokens, encoder and dev measurement in the cache."""
    write_pairs(material)
    recipe, storage = material.folder / "recipe.yaml", material.folder / "storage"
    recipe.write_text(yaml.safe_dump(stage_recipe()))
    passes = count()

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


def ray(material: Material) -> Callable[[], Pass]:
    """A recipe of two stages of the tiny encoder on two workers of a Ray of its own: from the command to the first
    step, and from the last step of the first stage to the first of the second."""
    write_pairs(material)
    tree = stage_recipe(encoder="tiny")
    first = tree["stages"][0]
    tree["stages"] = [first, {**first, "name": "again"}]
    recipe = material.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    passes = count()

    def make_pass() -> Pass:
        name = f"run-{next(passes)}"
        trace = material.folder / f"trace-{name}"
        began = time.time()
        command = [*MINIBERT, "train", str(recipe), "--data", str(material.folder), "--workers", "2"]
        _run([*command, "--storage", str(material.folder / "storage"), "--experiment", name], {VARIABLE: str(trace)})
        lines = [json.loads(line) for file in trace.glob("*.jsonl") for line in file.read_text().splitlines()]
        before, after = ([line["time"] for line in lines if line["stage"] == name] for name in ("train", "again"))
        return Pass(min(before) - began, 1, {"further": min(after) - max(before)})

    return make_pass


def load(material: Material) -> Callable[[], Pass]:
    """A process that loads a bundle of MiniLM and encodes a sentence with it."""
    write_pairs(material)
    trained(material, stage_recipe())
    bundle = str(material.folder / "storage" / "bench" / "train")
    words = f"from multitask import load_bundle; load_bundle({bundle!r}).embed(['A warm, funny film.'])"

    def make_pass() -> Pass:
        began = time.perf_counter()
        _run([sys.executable, "-c", words])
        return Pass(time.perf_counter() - began, 1)

    return make_pass


def demo(material: Material) -> Callable[[], Pass]:
    """`make demo` as it runs once everything is installed."""
    return _demos(material, lambda number: str(material.folder / f"demo-{number}"), "--workers", "2")


def demo_folder(material: Material) -> Callable[[], Pass]:
    return _demos(material, lambda number: str(material.folder / f"demo-{number}"), *FEW)


def demo_s3(material: Material) -> Callable[[], Pass]:
    """Onto moto's S3 server, in this process, which has nothing else to do."""
    from tests.s3 import S3

    server = S3()
    server.make_bucket("runs")
    os.environ |= server.environment
    return _demos(material, lambda number: f"s3://runs/demo-{number}", *FEW)


def _demos(material: Material, storage: Callable[[int], str], *words: str) -> Callable[[], Pass]:
    passes = count()

    def make_pass() -> Pass:
        began = time.perf_counter()
        _run([*MINIBERT, "train", "demo", "--storage", storage(next(passes)), *words])
        return Pass(time.perf_counter() - began, 1)

    return make_pass


def _run(command: list[str], more: Mapping[str, str] | None = None) -> None:
    """Raises CalledProcessError where the command does not end well; what it prints goes to the side's log."""
    subprocess.run(command, check=True, env={**os.environ, **(more or {})}, stdout=sys.stderr)
