"""A bundle's service: what was asked together is answered apart, what cannot be answered is refused, all is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import settings

from multitask.inference.predict import Answers, answerer
from ray_jobs.serving.batcher import Batcher, Full
from ray_jobs.serving.bundle import BundleEngine, facts_of
from ray_jobs.serving.bundle_api import MAX_TEXTS, Facts, Question, build_app
from ray_jobs.serving.gate import Limits, layers
from tests.helpers import tiny
from tests.served import SCHEMATHESIS

SECRET = "correct-horse-battery"
TYPED = "sesquipedalian"  # stands in no message of ours
FACTS = Facts({"sst": 1, "quora": 2}, {"sst": ("bad", "good"), "quora": ()}, 3)


class FakeEngine:
    """seconds: how long an answer takes. failure: what is raised in its place."""

    def __init__(self, facts: Facts = FACTS, seconds: float = 0.0, failure: Exception | None = None) -> None:
        self.facts, self.seconds, self.failure = facts, seconds, failure

    async def ask(self, question: Question) -> Any:
        await asyncio.sleep(self.seconds)
        if self.failure:
            raise self.failure
        if question.task is None:
            return np.ones((len(question.first), 3), np.float32)
        return Answers(
            np.ones(len(question.first)), None if question.task == "sts" else np.full(len(question.first), 0.5)
        )


def ask(engine: FakeEngine, method: str, path: str, token: str | None = None, **given: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(build_app(engine, token, 0.2))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **given)

    return asyncio.run(asked())


def post(path: str, engine: FakeEngine | None = None, **body: object) -> httpx.Response:
    return ask(engine or FakeEngine(), "POST", path, json=body)


def test_it_says_what_it_can_be_asked_and_answers() -> None:
    assert ask(FakeEngine(), "GET", "/health").json() == {
        "status": "ok", "tasks": ["sst", "quora"], "pairs": ["quora"], "width": 3
    }  # fmt: skip
    assert post("/embed", texts=["a", "b"]).json() == {"vectors": [[1.0] * 3] * 2}
    assert post("/predict", task="sst", texts=["a"]).json() == {
        "labels": [1.0], "probabilities": [0.5], "words": ["good"], "classes": ["bad", "good"]
    }  # fmt: skip
    assert post("/predict", task="quora", texts=["a"], second=["b"]).json()["labels"] == [1.0]
    assert post("/similarity", first=["a"], second=["b"]).json() == {"values": [3.0], "by": "cosine"}
    scored = FakeEngine(Facts({"sts": 2}, {"sts": ()}, 3))
    assert post("/similarity", scored, first=["a"], second=["b"]).json() == {"values": [1.0], "by": "sts"}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/embed", {"texts": []}, 422, "texts: empty; valid: a list of 1 to 256 texts"),
        ("/embed", {"texts": ["a"] * (MAX_TEXTS + 1)}, 422, "texts: too long; valid: a list of 1 to 256 texts"),
        ("/embed", {"texts": TYPED}, 422, "texts: not a list"),
        ("/embed", {"texts": ["a", "  "]}, 422, "texts: blank"),
        ("/embed", {}, 422, "texts: missing"),
        ("/predict", {"task": TYPED, "texts": ["a"]}, 404, "task: no such; valid: sst, quora"),
        ("/predict", {"task": "quora", "texts": ["a"]}, 422, "second: quora takes pairs"),
        ("/predict", {"task": "sst", "texts": ["a"], "second": ["b"]}, 422, "second: sst takes one text an example"),
        ("/predict", {"task": "quora", "texts": ["a"], "second": ["b", "c"]}, 422, "second: 2 texts; valid: 1"),
        ("/similarity", {"first": ["a"], "second": ["b", "c"]}, 422, "second: 2 texts; valid: 1"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_not_repeated(
    path: str, body: dict[str, Any], status: int, said: str
) -> None:
    answer = post(path, **body)
    assert answer.status_code == status and answer.json()["message"].startswith(said)
    assert TYPED not in answer.text


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        (FakeEngine(seconds=5), 504),
        (FakeEngine(failure=Full()), 503),
        (FakeEngine(failure=ValueError(TYPED)), 500),
        (FakeEngine(Facts({}, {}, 0)), 404),
    ],
)
def test_what_takes_too_long_is_too_much_or_fails_is_said(engine: FakeEngine, status: int) -> None:
    answer = post("/embed", engine, texts=["a"])
    assert answer.status_code == status and answer.json()["message"] and TYPED not in answer.text


def test_without_the_token_only_health_is_told() -> None:
    assert ask(FakeEngine(), "POST", "/embed", SECRET, json={"texts": ["a"]}).status_code == 401
    assert ask(FakeEngine(), "GET", "/health", SECRET).status_code == 200
    headers = {"authorization": f"Bearer {SECRET}"}
    assert ask(FakeEngine(), "POST", "/embed", SECRET, json={"texts": ["a"]}, headers=headers).status_code == 200


app = build_app(FakeEngine(), SECRET, 1.0)


@schemathesis.openapi.from_asgi("/openapi.json", app, config=SCHEMATHESIS).parametrize()
@settings(max_examples=20)
def test_whatever_the_schema_allows_or_not_is_answered_as_it_says(case: Any) -> None:
    answer = case.call(headers={"Authorization": f"Bearer {SECRET}"})
    if answer.status_code != 422 or "as in the first list" not in answer.json()["message"]:  # no schema can tell that
        case.validate_response(answer)


def test_the_documentation_shows_a_request_that_works() -> None:
    said = ask(FakeEngine(), "GET", "/docs").text
    assert "A man is playing a guitar." in said and "localhost:8000/embed" in said and "The page" not in said
    assert "GET /metrics" in said


def test_an_unknown_field_is_told_the_fields_that_there_are() -> None:
    answer = ask(FakeEngine(), "POST", "/similarity", json={"first": ["a"], "second": ["b"], TYPED: 1})
    assert answer.status_code == 422 and TYPED not in answer.text
    assert answer.json()["message"] == "body: has an unknown field; valid: the fields first, second"


def test_all_is_counted_by_path_and_status() -> None:
    wrapped: Any = build_app(FakeEngine(), SECRET, 1.0)
    for layer, options in reversed(layers(SECRET, Limits())):
        wrapped = layer(wrapped, **options)
    headers = {"authorization": f"Bearer {SECRET}"}

    async def asked() -> tuple[int, str]:
        transport = httpx.ASGITransport(wrapped)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for path, given in (("/embed", headers), ("/embed", {}), (f"/{TYPED}", headers)):
                await client.post(path, json={"texts": ["a"]}, headers=given)
            return (await client.get("/metrics")).status_code, (await client.get("/metrics", headers=headers)).text

    refused, told = asyncio.run(asked())
    assert refused == 401 and TYPED not in told
    for line in (
        'minibert_requests_total{path="/embed",status="200"} 1.0',
        'minibert_requests_total{path="/embed",status="401"} 1.0',
        'minibert_requests_total{path="other",status="404"} 1.0',
        "minibert_requests_open 0.0",
        'minibert_request_seconds_count{path="/embed"} 2.0',
    ):
        assert line in told.splitlines()


# What is answered together


def batches_of(batcher: Batcher[int, int], asked: Sequence[int]) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(batcher, asked), return_exceptions=True)

    return asyncio.run(all_of_them())


def test_what_came_meanwhile_is_answered_together_and_in_order() -> None:
    calls: list[list[int]] = []

    def answer(asked: Sequence[int]) -> list[int]:
        calls.append(list(asked))
        time.sleep(0.02)
        return [one * 10 for one in asked]

    batcher = Batcher(answer, lambda one: one, most=9, waiting=100)
    assert batches_of(batcher, [1, 2, 3, 4, 20, 5]) == [10, 20, 30, 40, 200, 50]
    assert calls == [[1, 2, 3], [4], [20], [5]] or calls == [[1], [2, 3, 4], [20], [5]]


def test_one_that_fails_fails_alone() -> None:
    def answer(asked: Sequence[int]) -> list[int]:
        return [10 // one for one in asked]

    found = batches_of(Batcher(answer, lambda one: 1, most=9, waiting=100), [1, 0, 2])
    assert found[0] == 10 and isinstance(found[1], ZeroDivisionError) and found[2] == 5


def test_too_much_that_waits_is_refused_and_who_has_left_is_not_computed() -> None:
    calls: list[list[int]] = []

    def answer(asked: Sequence[int]) -> list[int]:
        calls.append(list(asked))
        time.sleep(0.05)
        return list(asked)

    batcher = Batcher(answer, lambda one: one, most=1, waiting=2)

    async def ask_and_leave() -> None:
        first = asyncio.create_task(batcher(1))
        await asyncio.sleep(0.01)
        leaving, staying = asyncio.create_task(batcher(2)), asyncio.create_task(batcher(3))
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await batcher(4)
        leaving.cancel()
        assert await asyncio.gather(first, staying) == [1, 3]

    asyncio.run(ask_and_leave())
    assert calls == [[1], [3]]


def test_an_engine_gives_what_the_model_gives_alone() -> None:
    bundle = tiny()
    engine, alone = BundleEngine(bundle), answerer(bundle)
    texts = ["one text", "another, and a longer one", "a third"]
    asked = [Question(None, texts[:1]), Question(None, texts[1:])]
    for given, question in zip(engine.answer(asked), asked, strict=True):
        assert np.abs(given - alone.embed(question.first)).max() < 1e-6
    assert facts_of(bundle) == Facts({task: 1 for task in bundle.answers}, {task: () for task in bundle.answers}, 64)
