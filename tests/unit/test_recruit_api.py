"""The recruiter's API: what it answers, what it refuses and how, and that nothing typed is repeated or logged."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import settings

from multitask.errors import UserError
from multitask.recruit.postings import Posting
from multitask.recruit.search import Hit
from ray_jobs.recruit.endpoints import IndexFacts, build_app
from ray_jobs.recruit.messages import VALID, SearchRequest
from ray_jobs.recruit.serve import Models
from ray_jobs.serving.gate import TOKEN
from ray_jobs.serving.guard import MAX_BODY, OPEN
from ray_jobs.serving.refusals import MAX_CHARS, PROBLEMS, UNKNOWN
from ray_jobs.serving.start import check_port, wanted_token
from tests.recruiter import MARKUP, PARTS, PASSAGE, FakeEngine
from tests.served import SCHEMATHESIS

SECRET = "correct-horse-battery"
TYPED = "sesquipedalian"  # stands in no message of ours
JSON = {"content-type": "application/json"}
BODIES = {
    "/search": {"text": "accountant"},
    "/complete": {"text": "Keeps the books."},
    "/suitability": {"job": "Accountant", "application": "Four years of audit"},
}


def ask(
    engine: FakeEngine, method: str, path: str, token: str | None = None, host: str = "localhost", **given: Any
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(engine, token))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
            return await client.request(method, path, **given)

    return asyncio.run(asked())


def post(path: str, body: object, engine: FakeEngine | None = None) -> httpx.Response:
    return ask(engine or FakeEngine(), "POST", path, json=body)


# Answers


def test_search_answers_with_postings_passages_and_words() -> None:
    engine = FakeEngine()
    answer = post("/search", {"text": "  accountant\n", "k": 2}, engine)
    assert answer.status_code == 200
    first, second = answer.json()["hits"]
    assert first == {
        "id": "7",
        "title": "Chief Accountant",
        "company": "Books CJSC",
        "location": "Yerevan, Armenia",
        "score": 0.654,
        "passage": PASSAGE,
        "words": [[16, 26], [28, 36]],
    }
    assert second["title"] == MARKUP  # JSON is not markup: it goes out as it is
    assert engine.asked == [SearchRequest(text="accountant", k=2, mode="hybrid")]


def test_complete_answers_with_titles() -> None:
    titles = post("/complete", {"text": "Keeps the books.", "k": 1}).json()["titles"]
    assert titles == [{"text": "chief accountant", "probability": 0.41}]


@pytest.mark.parametrize("score", [{}, {"score": False}, {"score": True}])
def test_suitability_is_yes_or_no_unless_the_probability_is_asked_for(score: dict[str, bool]) -> None:
    answer = post("/suitability", {**BODIES["/suitability"], **score}).json()
    assert answer["qualified"] is True
    assert "person decides" in answer["note"] and answer["labels"].startswith("weak")
    assert answer.get("probability") == (0.73 if score.get("score") else None)
    assert ("probability" in answer) == bool(score.get("score"))


def test_health_says_what_there_is() -> None:
    assert ask(FakeEngine(frozenset({"completion"})), "GET", "/health").json() == {
        "status": "ok",
        "postings": 370,
        "passages": 872,
        "parts": ["search", "completion"],
    }


@pytest.mark.parametrize(("path", "part"), [("/complete", "completion"), ("/suitability", "suitability")])
def test_a_part_that_the_index_has_not_is_not_found(path: str, part: str) -> None:
    engine = FakeEngine(PARTS - {part})
    answer = post(path, BODIES[path], engine)
    assert answer.status_code == 404 and answer.json()["message"].startswith(f"{part}: this index has none")
    assert not engine.asked


@pytest.mark.parametrize(
    "text", ["x" * MAX_CHARS, "line\r\nbreaks\tand tabs", "<b>bold</b>", "'; DROP TABLE x; --", "👩‍🔧"]
)
def test_any_ordinary_text_is_a_query(text: str) -> None:
    engine = FakeEngine()
    assert post("/search", {"text": text}, engine).status_code == 200
    assert engine.asked[0].text == text


def test_the_longest_texts_fit_however_they_are_written() -> None:
    body = {"job": "👩" * MAX_CHARS, "application": "👩" * MAX_CHARS}
    written = json.dumps(body)  # ASCII: \ud83d\udc69
    answer = ask(FakeEngine(), "POST", "/suitability", content=written, headers=JSON)
    assert len(written) > 0.95 * MAX_BODY and answer.status_code == 200


# Refusals

TEXT = VALID["text"]
REFUSED: list[tuple[object, str, str]] = [
    ({}, "text", "missing"),
    ({"text": ""}, "text", "empty"),
    ({"text": " \n\u00a0"}, "text", "blank"),
    ({"text": TYPED + "x" * MAX_CHARS}, "text", "too long"),
    ({"text": TYPED + "\x00"}, "text", "has control characters"),
    ({"text": TYPED + "\x1b[31m"}, "text", "has control characters"),
    ({"text": TYPED + "\x85"}, "text", "has control characters"),
    ({"text": [TYPED]}, "text", "not a text"),
    ({"text": None}, "text", "not a text"),
    ({"text": TYPED, "k": 0}, "k", "too small"),
    ({"text": TYPED, "k": 51}, "k", "too large"),
    ({"text": TYPED, "k": "10"}, "k", "not a whole number"),
    ({"text": TYPED, "k": 2.5}, "k", "not a whole number"),
    ({"text": TYPED, "k": True}, "k", "not a whole number"),
    ({"text": TYPED, "mode": TYPED}, "mode", "not one of those there are"),
    ({"text": TYPED, TYPED: 1}, "body", "has an unknown field"),
    ([TYPED], "body", "not a JSON object"),
    (TYPED, "body", "not a JSON object"),
    (None, "body", "missing"),
]


@pytest.mark.parametrize(("body", "field", "problem"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_bad_request_is_told_field_problem_and_what_would_be_valid(body: object, field: str, problem: str) -> None:
    engine = FakeEngine()
    answer = post("/search", body, engine)
    assert answer.status_code == 422
    valid = "the fields text, k, mode" if problem == PROBLEMS[UNKNOWN] else VALID[field]
    assert answer.json()["problems"] == [{"field": field, "problem": problem, "valid": valid}]
    assert answer.json()["message"] == f"{field}: {problem}; valid: {valid}"
    assert TYPED not in answer.text and not engine.asked


def test_every_problem_is_told_at_once() -> None:
    found = post("/suitability", {"job": "", "score": "yes"}).json()["problems"]
    assert [(some["field"], some["problem"]) for some in found] == [
        ("job", "empty"),
        ("application", "missing"),
        ("score", PROBLEMS["bool_type"]),
    ]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (f'{{"text": "{TYPED}'.encode(), 422),
        (f'{{"text": "{TYPED} \\ud800"}}'.encode(), 422),  # half a character
        (TYPED.encode() + b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"text": "x", "k": ' + b"9" * 5000 + b"}", 400),
        (b'{"text": "x", "k": NaN}', 422),
        (b'{"text": "x", "k": 1e999}', 422),
    ],
    ids=["empty", "cut", "surrogate", "bytes", "deep", "digits", "nan", "infinite"],
)
def test_what_is_not_json_is_refused(content: bytes, status: int) -> None:
    answer = ask(FakeEngine(), "POST", "/search", content=content, headers=JSON)
    assert answer.status_code == status
    assert "valid: " in answer.json()["message"] and TYPED not in answer.text


def test_a_form_is_not_json() -> None:
    answer = ask(FakeEngine(), "POST", "/search", data={"text": TYPED})  # what a page elsewhere could send
    assert answer.status_code == 422 and TYPED not in answer.text


@pytest.mark.parametrize("headers", [JSON, {}])
def test_a_body_of_a_megabyte_is_not_read_as_json(headers: dict[str, str]) -> None:
    body = json.dumps({"text": TYPED * 75_000})
    answer = ask(FakeEngine(), "POST", "/search", content=body, headers=headers)
    assert len(body) > 1_000_000 and answer.status_code == 413
    assert answer.json()["message"] == f"body: too large; valid: up to {MAX_BODY:,} bytes"


def test_unknown_paths_and_methods_are_refused_with_a_message() -> None:
    nowhere, wrong = ask(FakeEngine(), "GET", f"/{TYPED}"), ask(FakeEngine(), "GET", "/search")
    assert nowhere.status_code == 404 and TYPED not in nowhere.text and "/docs" in nowhere.json()["message"]
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"


def test_a_failure_is_told_without_what_was_typed(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.failure = ValueError(f"cannot read {TYPED}")
    with caplog.at_level(logging.DEBUG):
        answer = post("/search", {"text": TYPED}, engine)
    assert answer.status_code == 500
    assert answer.json() == {"message": "the server failed; its log says where", "problems": []}
    assert "ValueError at " in caplog.text and "recruiter.py" in caplog.text
    assert TYPED not in caplog.text


def test_nothing_that_is_typed_is_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        for body in ({"text": TYPED}, {"text": TYPED + "\0"}, {"text": TYPED, TYPED: TYPED}, [TYPED]):
            post("/search", body)
    said = capfd.readouterr()
    assert TYPED not in caplog.text + said.out + said.err


# Headers, token, host


@pytest.mark.parametrize("path", ["/", "/script.js", "/docs", "/health", "/nowhere", "/search"])
def test_every_answer_has_the_headers_of_safety(path: str) -> None:
    headers = ask(FakeEngine(), "GET", path).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", SECRET, "Bearer é"]
)
def test_without_the_token_nothing_is_answered(path: str, given: str | None) -> None:
    engine = FakeEngine()
    headers = {} if given is None else {"authorization": given.encode("utf-8")}
    answer = ask(engine, "POST", path, SECRET, json=BODIES[path], headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["message"].startswith("token: missing or wrong") and SECRET not in answer.text
    assert not engine.asked


@pytest.mark.parametrize("path", BODIES)
def test_with_the_token_all_is_answered_under_any_name(path: str) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    answer = ask(FakeEngine(), "POST", path, SECRET, host="example.org", json=BODIES[path], headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", sorted(OPEN))
def test_the_page_itself_wants_no_token(path: str) -> None:
    assert ask(FakeEngine(), "GET", path, SECRET, host="example.org").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("example.org", 403), ("localhost.org", 403)],
)
def test_without_a_token_only_this_machine_is_answered(host: str, status: int) -> None:
    assert ask(FakeEngine(), "POST", "/search", host=host, json=BODIES["/search"]).status_code == status


# Documentation


@pytest.mark.parametrize("path", sorted(OPEN - {"/health", "/openapi.json", "/icon.svg"}))
def test_the_pages_load_nothing_from_elsewhere(path: str) -> None:
    text = ask(FakeEngine(), "GET", path).text
    assert text and "http://" not in text and "https://" not in text
    assert "innerHTML" not in text and "style=" not in text


def test_the_documentation_lists_all_that_can_be_asked() -> None:
    page = ask(FakeEngine(), "GET", "/docs").text
    for path in (*BODIES, "/health"):
        assert f" {path}</h2>" in page
    for name in ("application", "mode", "qualified", "probability"):
        assert f"<code>{name}</code>" in page


app = build_app(FakeEngine(), SECRET)
HEADERS = {"Authorization": f"Bearer {SECRET}"}


@schemathesis.openapi.from_asgi("/openapi.json", app, config=SCHEMATHESIS).parametrize()
@settings(max_examples=40)
def test_whatever_the_schema_allows_or_not_is_answered_as_it_says(case: Any) -> None:
    case.call_and_validate(headers=HEADERS)


# What serves it


class FakeSearcher:
    def __init__(self) -> None:
        self.batches: list[tuple[list[str], int, str]] = []

    def search(self, queries: Sequence[str], k: int, mode: str) -> list[list[Hit]]:
        self.batches.append((list(queries), k, mode))
        return [[Hit(Posting("1", query), 1.0, "", ())] * k for query in queries]


def test_a_batch_is_searched_by_kinds_and_answered_in_its_order() -> None:
    searcher = FakeSearcher()
    models = Models(searcher, None, None, IndexFacts(0, 0, frozenset()))  # type: ignore[arg-type]
    asked = [SearchRequest(text=text, k=k, mode=mode) for text, k, mode in
             [("a", 1, "hybrid"), ("b", 2, "hybrid"), ("c", 1, "hybrid"), ("d", 1, "bm25")]]  # fmt: skip
    found = models.search(asked)
    assert [(hits[0].posting.title, len(hits)) for hits in found] == [("a", 1), ("b", 2), ("c", 1), ("d", 1)]
    assert searcher.batches == [(["a", "c"], 1, "hybrid"), (["b"], 2, "hybrid"), (["d"], 1, "bm25")]


def test_a_host_that_others_reach_wants_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert wanted_token("127.0.0.1") is None
    with pytest.raises(UserError, match=r"--host '0\.0\.0\.0': others can reach it, so it wants a token"):
        wanted_token("0.0.0.0")
    monkeypatch.setenv(TOKEN, SECRET)
    assert wanted_token("0.0.0.0") == wanted_token("127.0.0.1") == SECRET


@pytest.mark.parametrize("token", ["hunter2", "has blanks in it somewhere", "größergrößergrößer", "line\n" * 8])
def test_a_token_that_is_no_token_is_refused_and_not_shown(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(UserError, match=f"{TOKEN}: ") as refused:
        wanted_token("127.0.0.1")
    assert token not in str(refused.value)


def test_a_port_in_use_is_told_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen there: Address already in use"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host 'no\.such\.host\.invalid'"):
        check_port("no.such.host.invalid", 8000)
