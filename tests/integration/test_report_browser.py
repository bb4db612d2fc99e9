"""Reports in a real browser: one of a small experiment against another one, both trained, and one of a sweep."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from multitask.report import report_of, save_report, write_report
from multitask.report.against import Baseline
from ray_jobs.bundles.comparing import compared_on_dev
from ray_jobs.screen import Screen
from ray_jobs.stopping import StopRequest
from tests.helpers import small_driver
from tests.reports import stage, swept, write

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"phone": 360, "desk": 1280}  # CSS pixels
THEMES = ("light", "dark")
LEAST_CONTRAST = 4.5  # of text on its ground (WCAG 2.2, 1.4.3)

# What the page comes to: its width, the widest box, and each figure's texts with their boxes and contrast.
MEASURE = """() => {
  const light = colour => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(value => value / 255);
    const [r, g, b] = parts.map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const contrast = colour => {
    const [low, high] = [light(colour), ground].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const boxes = [...document.querySelectorAll("svg, p, h1, h2, figcaption, .scroll")];
  const words = [...document.querySelectorAll("p, h1, h2, dt, dd, figcaption, thead th, tbody th")];
  return {
    scroll: document.documentElement.scrollWidth,
    widest: Math.max(...boxes.map(box => box.getBoundingClientRect().right)),
    ground: ground,
    faintest: Math.min(...words.map(word => contrast(getComputedStyle(word).color))),
    figures: [...document.querySelectorAll("svg")].map(svg => [...svg.querySelectorAll("text")].map(text => {
      const box = text.getBoundingClientRect();
      return {text: text.textContent, left: box.left, top: box.top, right: box.right, bottom: box.bottom,
              contrast: contrast(getComputedStyle(text).fill)};
    })),
  };
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`trained`: an experiment against another, with a price; `swept`: one with a sweep under two seeds."""
    folder = tmp_path_factory.mktemp("storage")
    for name, lr in (("other", 1e-3), ("small", 3e-2)):
        small_driver(folder, name, lr=lr).run(StopRequest("again"))
    baseline = Baseline(str(folder / "other"), partial(compared_on_dev, screen=Screen(quiet=True)))
    (trained, _) = save_report(str(folder / "small"), report_of(str(folder / "small"), 2.5, baseline))
    rows = [*many_trials(0), *many_trials(1), stage("sst", "sts", {"sst/accuracy": 0.5})]
    write(folder / "swept", rows)
    (page, _) = write_report(str(folder / "swept"))
    return {"trained": Path(trained), "swept": Path(page)}


def many_trials(variant: int) -> list[dict[str, Any]]:
    """A sweep of a rate and words, one of whose trials has failed."""
    scores = {f"lr=1e-0{power}": 0.9 - power / 10 - variant / 7 for power in range(2, 8)}
    rows = swept("sts/pearson", variant, {**scores, "lr=0.5": None})
    for place, trial in enumerate(row for row in rows if "@" in row["name"]):
        trial["settings"] |= {"schedule": ("linear", "constant")[place % 2], "ranking.hard_negatives": place > 2}
    return rows


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, report: Path, theme: str = "light", width: str = "desk") -> Page:
    """The page, from disk; any request but for the file itself, and any script, fails."""
    page = browser.new_page(
        color_scheme=theme,  # type: ignore[arg-type]
        viewport={"width": WIDTHS[width], "height": 800},
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_load_state("networkidle")
    assert asked == [report.as_uri()], "nothing is fetched"
    assert page.locator("script").count() == 0
    return page


def titles(page: Page) -> list[str]:
    return page.locator("h2").all_text_contents()


def test_the_trained_ones_sections_are_there(browser: Browser, reports: dict[str, Path]) -> None:
    page = opened(browser, reports["trained"])
    assert page.title() == "small" and page.locator("h1").text_content() == "small"
    expected = ["Against other", "Stages", "Retention", "Curves", "Final stages", "Dev, closely", "Cost", "Run facts"]
    assert titles(page) == expected
    assert page.locator("svg").count() > 4
    cost = page.get_by_role("region", name="What the experiment has taken")
    assert cost.locator("thead th").all_text_contents() == ["stage", "runs", "time", "worker-hours", "at 2.5 an hour"]
    scores = page.get_by_role("region", name="Scores of the final stage para")
    assert re.fullmatch(r"[+−]\.\d{3} \.\. [+−]\.\d{3}", scores.locator("tbody td").nth(3).text_content() or "")
    page.close()


def test_the_sweeps_sections_are_there(browser: Browser, reports: dict[str, Path]) -> None:
    page = opened(browser, reports["swept"])
    assert titles(page) == ["Stages", "Sweeps", "Retention", "Curves", "Final stages", "Cost", "Run facts"]
    named = "The trials of sts: lr, schedule, ranking.hard_negatives, and sts pearson"
    assert page.get_by_role("img", name=named).count() == 2, "a seed each"
    table = page.get_by_role("region", name="sts, seed 11711: 7 trials by sts pearson")
    assert table.locator("tbody tr").first.locator("td").all_text_contents()[:2] == ["0.01", "linear"]
    page.close()


@pytest.mark.parametrize("name", ["trained", "swept"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
def test_it_fits_every_screen_and_can_be_read(
    browser: Browser, reports: dict[str, Path], name: str, width: str, theme: str
) -> None:
    page = opened(browser, reports[name], theme, width)
    found = page.evaluate(MEASURE)
    page.close()
    assert found["scroll"] <= WIDTHS[width] and found["widest"] <= WIDTHS[width], "the page does not scroll sideways"
    assert (found["ground"] < 0.05) == (theme == "dark")
    assert found["faintest"] >= LEAST_CONTRAST
    assert any(found["figures"])
    for texts in found["figures"]:
        for index, one in enumerate(texts):
            assert one["bottom"] - one["top"] > 7, f"'{one['text']}' is too small to read"
            assert one["contrast"] >= LEAST_CONTRAST, f"'{one['text']}' is too faint"
            touching = [other["text"] for other in texts[:index] if overlap(one, other)]
            assert not touching, f"'{one['text']}' lies on {touching}"


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two boxes share more than a pixel."""
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return bool(across > 1 and down > 1)


@pytest.mark.parametrize("name", ["trained", "swept"])
def test_the_keyboard_reaches_every_table_and_moves_the_wide_ones(
    browser: Browser, reports: dict[str, Path], name: str
) -> None:
    page = opened(browser, reports[name], width="phone")
    regions = page.get_by_role("region")
    names = [regions.nth(at).get_attribute("aria-label") for at in range(regions.count())]
    assert names
    moved = 0
    for wanted in names:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.get_attribute("aria-label") == wanted
        if focused.evaluate("box => box.scrollWidth > box.clientWidth"):
            page.keyboard.press("ArrowRight")
            page.wait_for_function("document.activeElement.scrollLeft > 0")
            moved += 1
    assert moved, "some table is wider than a phone"
    page.close()
