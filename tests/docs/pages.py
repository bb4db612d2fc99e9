"""The code blocks of the README and of docs/: what is run of them, and in what.

A block of language `sh` or `python` is run as it stands, the blocks of a page one after the other. One that is not says
so in a comment right above it: `<!-- not run: needs a cloud -->`, or another of REASONS. Blocks without a language show
what is printed.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask.data.sample import sample_uri
from multitask.recruit.postings import COLUMNS
from tests.unit.test_recruit_postings import corpus

ROOT = Path(__file__).resolve().parents[2]
REASONS = ("needs a cloud", "hours of training", "run by .ci/run itself", "changes the environment")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: (.+) -->\n\Z")


@dataclass(frozen=True)
class Block:
    """line: where its fence stands, from 1. reason: why it is not run, or ""."""

    line: int
    language: str
    text: str
    reason: str


def pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(line, fence[1], fence[2], mark[1] if mark else ""))
    return found


def script(found: Sequence[Block]) -> str:
    """One bash script of what is run; Python blocks share a namespace: each is run behind those before it."""
    python, lines = "", ["set -eo pipefail"]
    for block in found:
        if block.reason or block.language not in ("sh", "python"):
            continue
        lines.append(f"echo '== line {block.line}' >&2")
        if block.language == "sh":
            lines.append(block.text)
        else:
            python += block.text
            lines.append(f"python - <<'END OF PYTHON'\n{python}END OF PYTHON\n")
    return "\n".join(lines)


SHIM = '#!/bin/sh\nexec {command} "$@"\n'
# What serves until it is stopped: it is, once it says where it serves, and right if it does within so many seconds.
SERVER = """#!/bin/sh
said=$(mktemp)
{command} "$@" >"$said" 2>&1 &
for _ in $(seq {seconds}); do
  grep -q http:// "$said" && break
  sleep 1
done
kill $!
wait $!
cat "$said"
grep -q http:// "$said"
"""
MINIBERT = """#!/bin/sh
case "$1 $2" in
  "recruit serve") exec serving-minibert "$@" ;;
  *) exec {command} "$@" ;;
esac
"""
SECONDS = 120
# The pages' trainings are there to run, not to learn: on few rows, and of a small encoder but for the README's.
ENCODERS = ("encoder: minilm-l6", "encoder: tiny")
SAMPLE_ROWS = 160  # of each of the sample's files
POSTINGS, POSTING_WORDS = 48, 8  # words of a field


def workplace(folder: Path, small: bool) -> Path:
    """A copy of the tree to run a page in, beside a small shared/data, with the commands of this environment. small:
    its recipes train a small encoder."""
    tree, commands = folder / "tree", folder / "bin"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (source := ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tree / name)
    sample = tree / Path(sample_uri()).relative_to(ROOT)
    for file in sample.glob("*.csv"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[: 1 + SAMPLE_ROWS]))
    for recipe in (tree / "configs" / "recipes").rglob("*.yaml") if small else ():
        recipe.write_text(recipe.read_text().replace(*ENCODERS))
    shutil.copytree(sample, folder / "shared" / "data" / "cs224n")
    _write_postings(folder / "shared" / "data" / "jobs" / "jobposts.csv")
    _command(tree / ".venv" / "bin" / "activate", "")  # what `make install` would have made
    _command(commands / "minibert", MINIBERT.format(command=f"{sys.executable} -m ray_jobs"))
    _command(commands / "serving-minibert", SERVER.format(command=f"{sys.executable} -m ray_jobs", seconds=SECONDS))
    _command(commands / "python", SHIM.format(command=sys.executable))
    tensorboard = f"{sys.executable} -m tensorboard.main"
    _command(commands / "tensorboard", SERVER.format(command=tensorboard, seconds=SECONDS))
    return tree


def _write_postings(file: Path) -> None:
    """Made postings in the form of the real ones, and short."""
    file.parent.mkdir(parents=True)
    with open(file, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["id", *COLUMNS.values()])
        for post in corpus(POSTINGS).postings:
            writer.writerow([post.id, *(" ".join(getattr(post, name).split()[:POSTING_WORDS]) for name in COLUMNS)])


def _command(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def run(page: Path, folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Runs a page's blocks; stderr names the line of each before it begins."""
    tree = workplace(folder, small=page.name != "README.md")
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(tree),
        "HOME": str(folder),
        "DATA": "../shared/data/cs224n",
    }
    command = ["bash", "-c", script(blocks(page))]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds)
