"""What the README and docs/ show is run as it stands; what is generated is up to date; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from multitask.recipe.checks import build_recipe
from tests.docs.pages import REASONS, ROOT, Block, blocks, pages, run, script
from tools import picture, recipes_page
from tools.picture import PACKAGES

RUNNABLE = [page for page in pages() if re.search(r"^echo", script(blocks(page)), re.MULTILINE)]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.pages
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.timeout(1200)
def test_a_page_runs_as_written(page: Path, tmp_path: Path) -> None:
    done = run(page, tmp_path, 1100)
    last = done.stderr.rpartition("== line ")[2].split("\n")[0]
    assert done.returncode == 0, f"{page.name}:{last}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_block_is_run_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        assert block.language in ("", "sh", "python", "yaml"), f"{where}: language {block.language}"
        assert not block.reason or block.reason in REASONS, f"{where}: {block.reason}"
        if block.language == "yaml":
            tree = yaml.safe_load(block.text)
            assert build_recipe(tree, where).stages if "stages" in tree else tree


def test_a_script_runs_what_is_not_marked() -> None:
    shown = [Block(1, "sh", "one\n", ""), Block(5, "sh", "two\n", "needs a cloud"), Block(9, "", "printed\n", "")]
    shown += [Block(12, "python", "a = 1\n", ""), Block(20, "python", "print(a)\n", "")]
    made = script(shown)
    assert "one" in made and "two" not in made and "printed" not in made
    assert "a = 1\nprint(a)\n" in made, "Python blocks of a page share a namespace"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    for target in targets:
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


MODULE = re.compile(
    r"(?<![\w/])((?:multitask|lightning_modules|ray_jobs|tests|tools|benchmarks)/[\w/]+\.py)(?:: ([\w, ]+)`)?"
)
HISTORY = "log.md"  # says what was there when it was written


@pytest.mark.parametrize("page", [*pages(), ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_modules_that_a_page_names_exist_with_the_names_in_them(page: Path) -> None:
    for path, names in MODULE.findall(page.read_text()) if page.name != HISTORY else []:
        assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for name in names.split(", ") if names else []:
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{page.name}: {path} has no {name}"


def test_the_way_to_the_loss_is_short() -> None:
    """From the command to the loss a stranger reads eight modules, each once, which the page names in their order."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    way = page.partition("eight modules")[2].partition("From the loss")[0]
    steps = re.findall(r"^\d\. `([\w/]+\.py): ", way, re.MULTILINE)
    assert len(steps) == len(set(steps)) == 8, steps


def test_the_picture_is_of_these_imports_and_no_two_parts_use_each_other() -> None:
    assert picture.PICTURE.read_text() == picture.draw(), "python -m tools.picture"


def test_the_recipes_page_says_what_the_schema_says() -> None:
    assert recipes_page.PAGE.read_text() == recipes_page.page(), "python -m tools.recipes_page"


def test_the_errors_page_quotes_what_the_code_says() -> None:
    """Every fixed piece of a quoted message of two words or more stands in the sources."""
    sources = [file.read_text() for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    for row in rows:
        said = row.removeprefix("| `").removesuffix("`")
        pieces = [piece.strip() for piece in said.split("...") if len(piece.split()) >= 2]
        assert pieces, row
        for piece in pieces:
            assert re.search(_loosely(piece), code), f"docs/errors.md: nothing says '{piece}'"


def _loosely(piece: str) -> str:
    """The words as they may stand in an f-string: a number may be a field."""
    words = [r"(?:\S+|\{[^}]*\})" if word.isdigit() else re.escape(word) for word in piece.split()]
    return r"\s+".join(words)
