"""The recruiter's page in a real browser, before an engine that answers at once."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ray_jobs.recruit.endpoints import build_app
from tests.recruiter import HITS, MARKUP, PARTS, FakeEngine, free_port

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOKEN = "correct-horse-battery"
PHONE = {"width": 360, "height": 740}
NEED = "accountant who knows taxes"


class Served:
    """An engine behind uvicorn, in a thread. `stop` takes the server away."""

    def __init__(self, parts: frozenset[str] = PARTS, token: str | None = None) -> None:
        self.engine = FakeEngine(parts)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        self._server = uvicorn.Server(uvicorn.Config(build_app(self.engine, token), port=port, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.stop()


@pytest.fixture
def guarded() -> Iterator[Served]:
    server = Served(token=TOKEN)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new page. What it may not do (another host, a script that is not the page's) and its errors fail the test."""
    page, wrong = browser.new_page(), list[str]()
    page.set_default_timeout(5000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
    page.on("request", lambda some: None if "//127.0.0.1:" in some.url else wrong.append(some.url))
    yield page
    page.close()
    assert not wrong


def search(page: Page, text: str) -> None:
    page.get_by_label("What are you looking for?").fill(text)
    page.get_by_role("button", name="Find postings").click()


def test_a_need_is_answered_with_postings_and_the_words_that_match(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#about")).to_have_text("370 postings in 872 passages")
    search(page, NEED)
    heading = page.get_by_role("heading", name="3 postings")
    expect(heading).to_be_focused()
    first = page.locator("#search li").first
    expect(first.get_by_role("heading")).to_have_text("Chief Accountant")
    expect(first.locator(".meta")).to_have_text("Books CJSC · Yerevan, Armenia")
    expect(first.locator(".score")).to_have_text("score 0.65")
    assert first.locator("mark").all_text_contents() == ["accounting", "salaries"]
    assert first.locator(".passage").text_content() == HITS[0].passage
    assert (served.engine.asked[0].text, served.engine.asked[0].k) == (NEED, 10)
    assert page.url == served.url  # what is typed never gets into an address


def test_markup_is_shown_as_text_wherever_it_comes_from(page: Page, served: Served) -> None:
    page.goto(served.url)
    search(page, MARKUP)
    second = page.locator("#search li").nth(1)
    expect(second.get_by_role("heading")).to_have_text(MARKUP)
    expect(second.locator(".passage")).to_have_text(f"Sells {MARKUP}")
    expect(second.locator(".meta")).to_have_text("<b>Bold</b> & Co. · <i>Gyumri</i>")
    assert served.engine.asked[0].text == MARKUP
    assert page.locator("main img, main script, main b, main i").count() == 0
    assert page.title() == "BERT as a Recruiter"


def test_an_empty_need_is_told_at_its_field(page: Page, served: Served) -> None:
    page.goto(served.url)
    search(page, "  \n ")
    field = page.get_by_label("What are you looking for?")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_accessible_description(re.compile("Type a need or paste a CV first."))
    field.fill("x" * 20_001)
    page.get_by_role("button", name="Find postings").click()
    expect(page.locator("#search-text-error")).to_have_text("20,001 characters; at most 20,000 can be read.")
    field.fill(NEED)
    expect(field).to_have_attribute("aria-invalid", "false")
    assert not served.engine.asked


def test_what_the_server_refuses_is_told(page: Page, served: Served) -> None:
    page.goto(served.url)
    search(page, "bell \x07")
    alert = page.locator("#search [role=alert]")
    expect(alert).to_contain_text("text: has control characters; valid: a text of 1 to 20,000 characters")
    search(page, NEED)
    expect(page.get_by_role("heading", name="3 postings")).to_be_visible()
    expect(alert).to_be_hidden()


def test_a_failure_and_a_lost_server_are_told_and_nothing_typed_is_lost(page: Page, served: Served) -> None:
    page.goto(served.url)
    alert = page.locator("#search [role=alert]")
    served.engine.failure = ValueError("broken")
    search(page, NEED)
    expect(alert).to_have_text("The server failed (status 500). Try again; what you typed is still here.")
    served.stop()
    page.get_by_role("button", name="Find postings").click()
    expect(alert).to_contain_text("The server cannot be reached.")
    expect(page.get_by_label("What are you looking for?")).to_have_value(NEED)


def test_no_posting_found(page: Page, served: Served) -> None:
    served.engine.hits = []
    page.goto(served.url)
    search(page, NEED)
    expect(page.get_by_role("heading", name="No posting found")).to_be_focused()


def test_while_it_waits_it_says_so_and_asks_once(page: Page, served: Served) -> None:
    served.engine.seconds = 1.0
    page.goto(served.url)
    search(page, NEED)
    button, status = page.get_by_role("button", name="Find postings"), page.locator("#search [role=status]")
    expect(status).to_have_text("Searching …")
    expect(button).to_have_attribute("aria-disabled", "true")
    button.dispatch_event("click")
    expect(page.get_by_role("heading", name="3 postings")).to_be_visible()
    expect(button).to_have_attribute("aria-disabled", "false")
    expect(status).to_have_text("")
    assert len(served.engine.asked) == 1


def test_a_wanted_token_is_asked_for_once(page: Page, guarded: Served) -> None:
    page.goto(guarded.url)
    expect(page.locator("#about")).to_contain_text("370 postings")
    search(page, NEED)
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-hint")).to_contain_text("That is not it.")
    field.fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="3 postings")).to_be_focused()
    search(page, NEED)
    expect(page.get_by_role("heading", name="3 postings")).to_be_focused()
    expect(field).to_be_hidden()
    assert len(guarded.engine.asked) == 2


def test_a_role_is_named(page: Page, served: Served) -> None:
    page.goto(served.url)
    page.get_by_role("tab", name="Role").click()
    page.get_by_label("Job description").fill("Keeps the books.")
    page.get_by_role("button", name="Name the role").click()
    items = page.locator("#completion li")
    expect(items.first).to_contain_text("chief accountant")
    expect(items.first).to_contain_text("probability 0.410")
    expect(items.nth(1).get_by_role("heading")).to_have_text(MARKUP)


@pytest.mark.parametrize(("qualified", "words"), [(True, "Qualified"), (False, "Not qualified")])
def test_suitability_is_yes_or_no_and_a_person_decides(page: Page, served: Served, qualified: bool, words: str) -> None:
    served.engine.judgement = served.engine.judgement.__class__(qualified, 0.73)
    page.goto(served.url)
    page.get_by_role("tab", name="Suitability").click()
    page.get_by_label("Job", exact=True).fill("Accountant")
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_label("Application", exact=True)).to_be_focused()  # it is empty
    page.get_by_label("Application", exact=True).fill("Four years of audit")
    page.get_by_role("button", name="Check", exact=True).click()
    results = page.locator("#suitability .results")
    expect(results.get_by_role("heading", name=words, exact=True)).to_be_focused()
    expect(results).to_contain_text("A person decides")
    expect(results).to_contain_text("weak labels: made from postings")
    assert "0.73" not in page.content()


def test_an_index_for_search_alone_has_no_tabs(page: Page) -> None:
    server = Served(frozenset())
    try:
        page.goto(server.url)
        expect(page.locator("#about")).to_contain_text("370 postings")
        assert page.get_by_role("tab").count() == 0
    finally:
        server.stop()


def test_everything_works_by_keyboard_alone(page: Page, served: Served) -> None:
    page.goto(served.url)
    expect(page.locator("#about")).to_contain_text("370 postings")

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    page.keyboard.press("Tab")
    assert focused() == "tab-search"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert focused() == "tab-suitability"
    page.keyboard.press("ArrowRight")  # around
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert focused() == "tab-search" and page.locator("#search").is_visible()
    page.keyboard.press("Tab")
    page.keyboard.type(NEED)
    page.keyboard.press("Tab")
    assert focused() == "Find postings"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="3 postings")).to_be_focused()


@pytest.mark.parametrize("path", ["", "docs"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_its_colours_have_contrast(page: Page, served: Served, path: str, scheme: str) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(served.url + path)
    if not path:
        search(page, "W" * 300)
        expect(page.get_by_role("heading", name="3 postings")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for text, ratio in page.evaluate(CONTRASTS):
        assert ratio >= 4.5, f"'{text}' has a contrast of {ratio:.2f}"


# Every text that is seen, with the contrast of its colour and the first ground behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => parts(color).slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = element => {
    const color = getComputedStyle(element).backgroundColor;
    return parts(color)[3] === 0 ? ground(element.parentElement) : color;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility()) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(ground(element))];
    found.push([text.slice(0, 40), (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)]);
  }
  return found;
}"""
