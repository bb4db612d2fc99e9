"""docs/images/architecture.svg: which part of the project uses which, by its imports. `python -m tools.picture` draws.

An arrow goes from what imports to what is imported; one that others imply (a uses b, b uses c) is left out.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = {"ray_jobs": "#dbeafe", "lightning_modules": "#dcfce7", "multitask": "#fef3c7"}


@dataclass(frozen=True)
class Part:
    """modules: the beginnings of its modules' names; a module belongs to the part with its longest beginning."""

    package: str
    name: str
    about: str
    modules: tuple[str, ...]


# package -> name, what is in it, the beginnings of its modules' names.
TABLE = {
    "ray_jobs": [
        ("commands", "minibert ..., multitask.train", "cli __main__ python"),
        ("recruiter's work", "index, search, serve, audit", "recruit"),
        ("serving", "a bundle over HTTP", "serving"),
        ("driver", "plan, prepare, results", "driver"),
        ("trackers", "MLflow, Weights & Biases", "trackers"),
        ("runners", "this process, Ray workers, trials", "runners"),
        ("bundles at work", "evaluate, batch, export, doctor", "bundles batch doctor"),
        ("terminal", "options, screen, logs, signals", "options screen logs stopping importing"),
    ],
    "lightning_modules": [
        (
            "a stage's run",
            "job -> bundle, callbacks, Trainer",
            "run module callbacks conflict data dev finishing gradients own profiling tensorboard summary teaching "
            "trace",
        ),
        ("progress", "what a run tells", "progress"),
    ],
    "multitask": [
        ("report", "tables, figures, the page", "report"),
        ("recruiter", "index, search, suitability, audit", "recruit"),
        ("export", "transformers, ONNX, model card", "export"),
        ("Python API", "load_bundle, read_table", "api"),
        ("experiment", "fingerprints, lease, checkpoints", "experiment"),
        ("inference", "embed, predict, submission", "inference"),
        ("recipe", "stages, settings, checks, sweeps", "recipe"),
        ("objectives", "supervised, mlm, ranking, ...", "objectives"),
        ("measure", "metrics, intervals, dev sets", "measure"),
        ("bundle", "weights, no pickle", "bundle"),
        ("model", "miniBERT and its heads", "model"),
        ("data", "readers, tokens, samplers, masks", "data"),
        ("tasks", "the TASKS table, own ones", "tasks"),
        ("storage", "any URI, whole or absent", "storage errors extras markdown optim"),
    ],
}
PARTS = [
    Part(package, name, about, tuple(f"{package}.{module}" for module in named.split()))
    for package, parts in TABLE.items()
    for name, about, named in parts
]


def modules() -> dict[str, Path]:
    """Every module of the three packages, but for the packages themselves."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return {name: file for name, file in named.items() if name not in PACKAGES}


def part_of(module: str) -> Part:
    """The part whose name for it is the longest. Raises ValueError where there is none."""
    found = max(
        PARTS, key=lambda part: max((len(name) for name in part.modules if module.startswith(name)), default=-1)
    )
    if not any(module.startswith(name) for name in found.modules):
        raise ValueError(f"{module}: in no part; tools/picture.py: PARTS has {', '.join(part.name for part in PARTS)}")
    return found


def imported(tree: ast.Module) -> set[str]:
    """The modules that imports anywhere in a module's code name."""
    nodes = list(ast.walk(tree))
    froms = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return froms | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def uses() -> dict[Part, set[Part]]:
    """Part -> the other parts that its modules import."""
    found: dict[Part, set[Part]] = {part: set() for part in PARTS}
    for module, file in modules().items():
        names = imported(ast.parse(file.read_text()))
        found[part_of(module)] |= {part_of(name) for name in names if name.split(".")[0] in PACKAGES and "." in name}
    return {part: others - {part} for part, others in found.items()}


def reached(part: Part, graph: dict[Part, set[Part]], path: tuple[Part, ...] = ()) -> set[Part]:
    """All that a part uses, directly or not. Raises ValueError for parts that use each other."""
    if part in path:
        raise ValueError(f"parts use each other: {' -> '.join(some.name for some in (*path, part))}")
    return set().union(*({other} | reached(other, graph, (*path, part)) for other in graph[part]))


def needed(graph: dict[Part, set[Part]]) -> dict[Part, set[Part]]:
    """The arrows that no others imply."""
    below = {part: reached(part, graph) for part in graph}
    return {part: {b for b in others if not any(b in below[c] for c in others)} for part, others in graph.items()}


WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 210, 46, 36, 34, 30


def places(graph: dict[Part, set[Part]]) -> dict[Part, tuple[float, float]]:
    """Each part's corner: above all that it uses, in its package's columns."""
    depth: dict[Part, int] = {}
    for part in sorted(graph, key=lambda part: len(reached(part, graph))):
        depth[part] = 1 + max((depth[other] for other in graph[part]), default=-1)
    found: dict[Part, tuple[float, float]] = {}
    left, top = 0, max(depth.values())
    for package in PACKAGES:
        cells: dict[int, list[Part]] = {}
        for part in PARTS:
            if part.package == package:
                cells.setdefault(depth[part], []).append(part)
        columns = max(map(len, cells.values()))
        for level, parts in cells.items():
            for place, part in enumerate(parts):
                x = left + place + (columns - len(parts)) / 2
                found[part] = (MARGIN + x * (WIDTH + GAP_X), MARGIN + 30 + (top - level) * (HEIGHT + GAP_Y))
        left += columns
    return found


def draw() -> str:
    graph = uses()
    at = places(graph)
    width = max(x for x, _ in at.values()) + WIDTH + MARGIN
    height = max(y for _, y in at.values()) + HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#475569"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
    ]
    lines += [
        arrow(at[part], at[other]) for part, others in needed(graph).items() for other in PARTS if other in others
    ]
    lines += [box(part, *at[part]) for part in PARTS]
    for place, (package, colour) in enumerate(PACKAGES.items()):
        x = MARGIN + place * 150
        lines.append(f'<rect x="{x}" y="12" width="14" height="14" fill="{colour}" stroke="#475569"/>')
        lines.append(f'<text x="{x + 20}" y="24" font-size="13">{package}</text>')
    return "\n".join([*lines, "</svg>", ""])


def arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    if start[0] == end[0] and end[1] - start[1] > HEIGHT + GAP_Y:  # past the boxes between, on their left
        x, y, to_y = start[0], start[1] + HEIGHT / 2, end[1] + HEIGHT / 2
        bend = f"C{x - 30:g} {y:g} {x - 30:g} {to_y:g}"
        return f'<path d="M{x:g} {y:g}{bend} {x:g} {to_y:g}" fill="none" stroke="#475569" marker-end="url(#tip)"/>'
    x, y, to_x, to_y = start[0] + WIDTH / 2, start[1] + HEIGHT, end[0] + WIDTH / 2, end[1]
    bend = f"C{x:g} {y + 30:g} {to_x:g} {to_y - 30:g}"
    return f'<path d="M{x:g} {y:g}{bend} {to_x:g} {to_y:g}" fill="none" stroke="#475569" marker-end="url(#tip)"/>'


def box(part: Part, x: float, y: float) -> str:
    middle = x + WIDTH / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{PACKAGES[part.package]}" '
        f'stroke="#475569"/><text x="{middle:g}" y="{y + 19:g}" font-size="13" font-weight="bold" text-anchor="middle">'
        f'{escape(part.name)}</text><text x="{middle:g}" y="{y + 36:g}" font-size="10.5" text-anchor="middle">'
        f"{escape(part.about)}</text>"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(PICTURE, file=sys.stderr)
