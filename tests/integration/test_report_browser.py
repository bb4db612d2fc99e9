"""The report of a real small experiment in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask.report import write_report
from ray_jobs.stopping import StopRequest
from tests.helpers import small_driver

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE = 390  # CSS pixels

# The page in a frame as wide as a phone (a window cannot be made so narrow), which is asked for its size.
FRAME = """<!DOCTYPE html><title>loading</title>
<iframe id=frame style="border:0; width:{width}px; height:5000px"></iframe>
<script>
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const boxes = [...page.querySelectorAll("svg, p, h1, h2, figcaption, .scroll")];
  const texts = [...page.querySelectorAll("svg")].map(svg => [...svg.querySelectorAll("text")].map(text => {{
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left, box.top, box.right, box.bottom];
  }}));
  document.title = JSON.stringify({{
    scroll: root.scrollWidth,
    widest: Math.max(...boxes.map(box => box.getBoundingClientRect().right)),
    texts: texts,
  }});
}};
frame.srcdoc = {page};
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    small_driver(folder).run(StopRequest("again"))
    return Path(write_report(str(folder / "small"))[0])


@pytest.fixture(scope="module")
def dom(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """What headless Chromium makes of a file."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    profile = tmp_path_factory.mktemp("profile")

    def dump(file: Path) -> str:
        command = [found, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--virtual-time-budget=5000", "--window-size=1280,2000", "--dump-dom", file.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout

    return dump


def test_it_opens_from_disk(report: Path, dom: Callable[[Path], str]) -> None:
    shown = dom(report)
    assert "<title>small</title>" in shown and "<h1>small</h1>" in shown
    for title in ("Stages", "Retention", "Curves", "Final stages", "Run facts"):
        assert f"<h2>{title}</h2>" in shown
    assert shown.count("<table") == shown.count("</table>") == 4
    assert shown.count("<svg") == shown.count("</svg>") > 4
    assert "TorchTrainer_" in shown


def test_it_fits_a_phone_and_no_labels_overlap(report: Path, dom: Callable[[Path], str], tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    page = json.dumps(report.read_text()).replace("</", "<\\/")
    frame.write_text(FRAME.format(width=PHONE, page=page))
    title = re.search(r"<title>(\{.*?\})</title>", dom(frame), re.DOTALL)
    assert title, "the frame was not loaded"
    found = json.loads(title[1])
    assert found["scroll"] <= PHONE and found["widest"] <= PHONE
    assert any(found["texts"])
    for texts in found["texts"]:
        for index, one in enumerate(texts):
            assert one[4] - one[2] > 7, f"'{one[0]}' is too small to read: {one[4] - one[2]:.1f} px high"
            touching = [other[0] for other in texts[:index] if overlap(one, other)]
            assert not touching, f"'{one[0]}' lies on {touching}"


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (name, left, top, right, bottom) share more than a pixel."""
    across = min(one[3], other[3]) - max(one[1], other[1])
    down = min(one[4], other[4]) - max(one[2], other[2])
    return across > 1 and down > 1
