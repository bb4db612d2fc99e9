"""What a command made, taken apart so that two runs can be compared, and what a hit came to."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.bitflips.commands import End
from tests.bitflips.kinds import Kind

STARTED = re.compile(r"(?<=[_-])\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")  # in the names of trainers and logs
TEXTS = (".html", ".md", ".csv", ".yaml", ".txt")
TIMES = ("seconds", "examples_per_second", "training_seconds")  # of JSON: when and how fast, not what
ENDS = ("made again", "refused", "without effect", "SILENT", "UNNAMED", "TRACEBACK")
FAULTS = ENDS[3:]

Leaves = dict[str, Any]  # what was made, in its smallest parts


def leaves(kind: Kind, end: End, world: Path) -> Leaves:
    """Files by their JSON values, lines or content; `printed` by its lines."""
    found: Leaves = {"status": end.status}
    files = sorted({file for pattern in kind.results for file in world.glob(pattern) if file.is_file()})
    for file in files:
        name = STARTED.sub("", str(file.relative_to(world)))
        found |= {f"{name}: {at}": value for at, value in _parts(name, file.read_bytes(), world)}
    if kind.printed:
        found |= {f"printed: {at}": value for at, value in _parts("printed.txt", end.out.encode(), world)}
    return found


def _parts(name: str, data: bytes, world: Path) -> Iterator[tuple[str, Any]]:
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                yield from _parts(entry, archive.read(entry), world)
        return
    if not name.endswith((".json", ".jsonl", *TEXTS)):
        yield "content", hashlib.sha256(data).hexdigest()
        return
    text = STARTED.sub("", data.decode(errors="replace").replace(str(world), "WORLD"))
    try:
        documents = text.splitlines() if name.endswith(".jsonl") else [text]
        trees = [json.loads(document) for document in documents] if not name.endswith(TEXTS) else text.splitlines()
    except ValueError:
        trees = [text]
    yield from _flat("", trees)


def _flat(at: str, tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict | list) and tree:
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if key != "seal":  # of all the rest, times among it
                yield from _flat(f"{at}/{key}", value)
    else:
        yield at, tree


def moving(kind: Kind, one: Leaves, other: Leaves) -> set[str]:
    """The parts that two undisturbed runs do not agree on: times. Raises where it is a number of a model."""
    found = {at for at in one.keys() | other.keys() if one.get(at) != other.get(at)}
    if kind.state != "done":  # something is trained, and takes its time; two runs may happen to take the same
        found |= {at for at in one if at.endswith(TIMES)}
    if wrong := [at for at in found if at.endswith("content")]:
        raise RuntimeError(f"two undisturbed runs differ: {wrong}")
    return found


def judged(kind: Kind, file: Path, end: End, found: Leaves, expected: Leaves, masked: set[str], usual: str) -> str:
    """One of ENDS. usual: what the undisturbed run printed."""
    new = [line for line in end.said.splitlines() if line not in usual.splitlines()]
    names = _names(file)
    named = any(name in line for line in new for name in names)
    if end.status == 2:
        lines = [line for line in new if line.startswith("minibert: ")]
        return "refused" if len(lines) == 1 and any(name in lines[0] for name in names) else "UNNAMED"
    if end.status:
        return "TRACEBACK"
    if named and any(line.endswith("; left out") and any(name in line for name in names) for line in new):
        return "refused"  # the file, not the command: a report without its curves
    if differences(found, expected, masked):
        return "SILENT"
    return "made again" if named else "without effect"


def _names(file: Path) -> set[str]:
    """What a line may call the file: its own name, that of its sealed directory, or an experiment's."""
    parent = file.parent
    found = {file.name} | ({f"{parent.parent.name}/{parent.name}"} if (parent / "manifest.json").exists() else set())
    return found | ({f"experiment '{parent.name}' at"} if file.name == "experiment.json" else set())


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], masked: set[str]) -> list[str]:
    return [
        at for at in sorted(found.keys() | expected.keys()) if at not in masked and found.get(at) != expected.get(at)
    ]
