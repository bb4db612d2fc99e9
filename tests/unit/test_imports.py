"""The house's walls: who may import whom, what `minibert --help` may load, what may lie in the tree."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PEERS = {"transformers", "sentence_transformers"}  # for parity in tests, never a dependency
OTHER = {"lightning"}  # the same Lightning under another name: its classes are others
FORBIDDEN = {
    "multitask": PEERS | OTHER | {"pytorch_lightning", "lightning_modules", "ray_jobs", "ray"},
    "lightning_modules": PEERS | OTHER | {"ray_jobs", "ray"},
    "ray_jobs": PEERS | OTHER,
}
# What a module gives when it is asked for by name; type checkers alone see the import.
ASKED_FOR = {"multitask/__init__.py": {"ray_jobs"}}
FORBIDDEN_AT_TOP = {"ray_jobs": {"ray"}}
# The rooms of multitask/, from the ground up: each may use those before it, and no other.
ROOMS = [
    *("errors", "extras", "markdown", "optim", "storage", "tasks", "data", "model", "bundle", "measure", "objectives"),
    *("recipe", "inference", "experiment", "export", "report", "recruit", "api"),
]
MOST = {"multitask": 6, "lightning_modules": 14, "ray_jobs": 8}  # files in a package's root

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home/(?!ray\b)\w+|Users/\w+|opt/(?:wheels|pypi))\b")
PACKAGE_HOST = re.compile(r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|index-url[ =]+http")
MAX_BYTES = 1_000_000

FILES = sorted(path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree: ast.AST, *, inside_functions: bool) -> Iterator[str]:
    """The top-level packages that the code imports, with or without those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(node, inside_functions=inside_functions)


def test_the_walker_tells_top_level_from_function_level() -> None:
    tree = ast.parse("import a.b\nif x:\n  from c.d import e\nfrom . import f\ndef g():\n  import h")
    assert list(imported(tree, inside_functions=False)) == ["a", "c"]
    assert list(imported(tree, inside_functions=True)) == ["a", "c", "h"]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_run_one_way(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parts[0]
    anywhere = set(imported(tree, inside_functions=True)) & FORBIDDEN[package]
    at_top = set(imported(tree, inside_functions=False)) & FORBIDDEN_AT_TOP.get(package, set())
    anywhere -= ASKED_FOR.get(relative(path), set())
    assert not anywhere, f"{relative(path)}: {package} must not import {sorted(anywhere)}"
    assert not at_top, f"{relative(path)}: {sorted(at_top)} may be imported only inside functions"


def rooms_used(tree: ast.AST) -> set[str]:
    """The rooms of multitask/ that the code imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        found |= {name.split(".")[1] for name in names if name.startswith("multitask.")}
    return found & set(ROOMS)


def test_the_walker_tells_rooms() -> None:
    tree = ast.parse(
        "from multitask.data.tokens import a\nimport multitask.api\ndef f():\n  from multitask import errors"
    )
    assert rooms_used(tree) == {"data", "api", "errors"}


@pytest.mark.parametrize("path", sorted((ROOT / "multitask").glob("*/**/*.py")), ids=relative)
def test_rooms_use_those_below_them(path: Path) -> None:
    room = path.relative_to(ROOT).parts[1]
    above = rooms_used(ast.parse(path.read_text(encoding="utf-8"))) - set(ROOMS[: ROOMS.index(room) + 1])
    assert not above, f"{relative(path)}: {room} lies below {sorted(above)}"


@pytest.mark.parametrize("path", sorted((ROOT / "lightning_modules").rglob("*.py")), ids=relative)
def test_training_knows_no_recruiter(path: Path) -> None:
    above = rooms_used(ast.parse(path.read_text(encoding="utf-8"))) & set(ROOMS[ROOMS.index("experiment") + 1 :])
    assert not above, f"{relative(path)}: training uses {sorted(above)}"


@pytest.mark.parametrize("package", MOST)
def test_a_packages_root_stays_small(package: str) -> None:
    files = [relative(path) for path in (ROOT / package).glob("*.py")]
    assert len(files) <= MOST[package], files


def test_rays_own_lightning_classes_are_not_used() -> None:
    """They come from `lightning` where that is installed too, and our Trainer refuses them."""
    assert not [relative(path) for path in FILES if re.search(r"(from|import) ray\.train\.lightning", path.read_text())]


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__main__.py"], ids=relative)
def test_every_module_can_be_imported(path: Path) -> None:
    importlib.import_module(module_name(path))


def test_every_package_folder_has_an_init() -> None:
    # setuptools would silently leave a folder without one out of the wheel
    folders = {path.parent for path in FILES} | {ROOT / package for package in (*FORBIDDEN, "configs")}
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()]


def test_help_loads_neither_torch_nor_ray() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ray_jobs", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "train" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "ray_jobs" in loaded
    assert not loaded & {"torch", "ray", "pytorch_lightning"}


def tree_files() -> list[Path]:
    """What git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_tree_names_no_machine_path_no_package_host_and_holds_no_large_file() -> None:
    files = tree_files()
    assert Path(__file__) in files
    wrong = []
    for path in files:
        if (size := path.stat().st_size) > MAX_BYTES:
            wrong.append(f"{relative(path)}: {size} bytes")
        text = path.read_text(encoding="utf-8", errors="ignore")
        found = [*MACHINE_PATH.finditer(text), *PACKAGE_HOST.finditer(text)]
        wrong += [f"{relative(path)}: '{match[0]}'" for match in found]
    assert not wrong, "\n".join(wrong)
