"""What pip installs is enough: the demo and a new project train in an empty folder, and write nothing elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(400)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made of a copy of what is tracked and unpacked by pip; its dependencies are this interpreter's."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, map(os.fsdecode, tracked)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--wheel-dir", source / "dist", source], check=True)
    (wheel,) = (source / "dist").glob("minibert_multitask-*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", target, wheel], check=True)
    return target


class Home:
    """An empty folder to work in, beside a home and a place for temporary files of its own."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        own = {"HOME": folder / "home", "TMPDIR": folder / "tmp", "MPLCONFIGDIR": folder / "tmp"}
        for path in (self.work, *own.values()):
            path.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MINIBERT")}
        self.environment = {**kept, **{name: str(path) for name, path in own.items()}, "PYTHONPATH": str(site)}

    def run(self, *words: str, folder: str = ".") -> str:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "ray_jobs", *words], cwd=self.work / folder, env=self.environment,
            capture_output=True, text=True,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def test_the_wheel_alone_trains_the_demo_and_a_new_project(installed: Path, tmp_path: Path) -> None:
    home, before = Home(tmp_path, installed), {path: path.stat().st_mtime_ns for path in installed.rglob("*.y*ml")}
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import multitask; print(multitask.__file__)"],
        cwd=home.work, env=home.environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert Path(where.strip()).is_relative_to(installed)

    said = home.run("train", "demo", "--set", "defaults.epochs=1", "--set", "defaults.max_examples=160")
    assert "| sst" in said.replace("│", "|") and (home.work / "runs/demo/results.json").is_file()
    home.run("new", "x")
    home.run("train", "recipe.yaml", folder="x")
    assert (home.work / "x/runs/x/results.json").is_file()

    assert {path.name for path in home.work.iterdir()} == {"runs", "x"}
    written = {path for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert not {path for path in written if ".cache" not in path.parts}, written
    assert before == {path: path.stat().st_mtime_ns for path in installed.rglob("*.y*ml")}
