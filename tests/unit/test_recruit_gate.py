"""The gate before the recruiter's replica: deadlines, limits a client, and what is said of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.serving.gate import PER_CLIENT, Gate, Limits, impatient, middlewares
from ray_jobs.serving.guard import MAX_BODY, TOO_LARGE, Message, Receive, Send
from ray_jobs.serving.measured import Measured

QUICK = Limits(head=0.05, idle=0.1, body=0.4, per_client=2, reading=3)
Piece = tuple[float, bytes]  # seconds that it takes to come, and what comes


class Server:
    """A gate before an app that answers with the body it was given. bodies: all that it was given."""

    def __init__(self, limits: Limits = QUICK, token: str | None = None, app_seconds: float = 0.0) -> None:
        self.gate = Gate(self.app, token, limits)
        self.bodies: list[bytes] = []
        self.app_seconds = app_seconds

    async def app(self, scope: Message, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        self.bodies.append(body)
        await asyncio.sleep(self.app_seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def ask(self, *pieces: Piece, client: str = "10.0.0.1", host: str = "localhost") -> tuple[int, Any, Any]:
        """Status, headers and body of the answer; after its last piece the client is silent. Status 0: none came."""
        coming, sent = list(pieces), list[Message]()

        async def receive() -> Message:
            if not coming:
                await asyncio.sleep(60)
            seconds, body = coming.pop(0)
            await asyncio.sleep(seconds)
            if body == b"GONE":
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": body, "more_body": body[-1:] != b"."}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", host.encode())]
        scope = {"type": "http", "path": "/search", "headers": headers, "client": (client, 1234)}
        await self.gate(scope, receive, send)
        if not sent:
            return 0, {}, b""
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def run(story: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(story(), 20))  # type: ignore[arg-type]


def message(body: bytes) -> str:
    told: str = json.loads(body)["message"]
    return told


def test_a_body_goes_on_when_it_is_whole() -> None:
    server = Server()
    status, _, body = run(lambda: server.ask((0.01, b"one "), (0.05, b"two.")))
    assert (status, body, server.bodies) == (200, b"one two.", [b"one two."])


@pytest.mark.parametrize(
    "pieces",
    [[], [(0.0, b"a beginning")], [(0.06, b"x")] * 20],
    ids=["nothing comes", "the rest does not come", "it trickles without a pause"],
)
def test_a_slow_body_is_408_and_the_app_never_hears_of_it(pieces: list[Piece]) -> None:
    server = Server()
    status, headers, body = run(lambda: server.ask(*pieces))
    assert status == 408 and server.bodies == [] and headers[b"connection"] == b"close"
    assert message(body) == "body: too slow; valid: all of it in 0.4 s, no pause of 0.1 s"


def test_a_client_with_too_many_idle_bodies_is_answered_in_place_of_the_most_silent() -> None:
    server = Server(replace(QUICK, reading=100, idle=5.0, body=5.0))

    async def story() -> Any:
        loop, ends = asyncio.get_running_loop(), dict[int, float]()
        idle = [asyncio.create_task(server.ask((0.03 * at, b"a beginning"))) for at in range(2)]
        for at, task in enumerate(idle):
            task.add_done_callback(lambda _, at=at: ends.setdefault(at, loop.time()))
        await asyncio.sleep(0.1)
        third = await server.ask((0, b"."))
        await asyncio.sleep(0.01)
        return third, dict(ends), len(server.gate._requests), [task.cancel() for task in idle]

    third, ends, left, _ = run(story)
    assert third[0] == 200 and list(ends) == [0] and left == 1


def test_a_client_with_too_many_requests_that_are_being_answered_is_429_and_others_are_not() -> None:
    server = Server(app_seconds=0.2)

    async def story() -> Any:
        working = [asyncio.create_task(server.ask((0, b"."))) for _ in range(2)]
        await asyncio.sleep(0.05)
        third, other = await server.ask((0, b".")), await server.ask((0, b"."), client="10.0.0.2")
        return third, other, await asyncio.gather(*working), await server.ask((0, b"."))

    (status, headers, body), other, working, later = run(story)
    assert status == 429 and headers[b"retry-after"] == b"1"
    assert message(body) == "requests: 2 of this address are in progress; valid: fewer at once"
    assert other[0] == 200 and [ended[0] for ended in working] == [200, 200]
    assert later[0] == 200 and not server.gate._requests  # what has ended counts no more


def test_more_bodies_on_their_way_than_memory_is_meant_for_end_the_most_silent() -> None:
    server = Server(replace(QUICK, idle=5.0, body=5.0))

    async def story() -> Any:
        idle = [asyncio.create_task(server.ask(client=f"10.0.1.{at}")) for at in range(3)]
        await asyncio.sleep(0.01)
        new = await server.ask((0, b"."))
        await asyncio.sleep(0.01)
        return new, [task.done() for task in idle], [task.cancel() for task in idle]

    new, done, _ = run(story)
    assert new[0] == 200 and done == [True, False, False]


def test_who_is_not_welcome_is_refused_before_a_body_is_read() -> None:
    elsewhere, unknown = Server(), Server(token="correct-horse-battery")
    assert run(lambda: elsewhere.ask(host="example.org"))[0] == 403
    assert run(lambda: unknown.ask(host="example.org"))[0] == 401


def test_a_body_too_large_is_413_and_one_broken_off_is_nothing() -> None:
    server = Server()
    status, headers, body = run(lambda: server.ask((0, b"x" * (MAX_BODY + 1) + b".")))
    assert (status, message(body), headers[b"connection"]) == (413, TOO_LARGE, b"close")
    assert run(lambda: server.ask((0, b"a beginning"), (0, b"GONE")))[0] == 0
    assert server.bodies == [] and not server.gate._requests


class Plain:
    """What the deadline needs of uvicorn's protocol. A request is under way from `head` to `end`."""

    def __init__(self) -> None:
        self.loop, self.cycle = asyncio.get_running_loop(), None  # type: ignore[var-annotated]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"head":
            self.cycle = SimpleNamespace(response_complete=False)
        if data == b"end" and self.cycle:
            self.cycle.response_complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        return None


@pytest.mark.parametrize(
    ("said", "closed"),
    [
        ([], True),
        ([b"he"], True),
        ([b"he", b"ad"], True),
        ([b"head"], False),
        ([b"head", b"end"], True),
        ([b"head", b"end", b"head"], False),
    ],
)
def test_a_connection_without_a_requests_headers_is_closed(said: list[bytes], closed: bool) -> None:
    async def story() -> list[bool]:
        ended: list[bool] = []
        connection = impatient(Plain, 0.05)()
        connection.connection_made(SimpleNamespace(close=lambda: ended.append(True)))
        for data in said:
            connection.data_received(data)
        await asyncio.sleep(0.1)
        connection.connection_lost(None)
        return ended

    assert run(story) == ([True] if closed else [])


def test_the_proxy_gets_the_gate_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from uvicorn.protocols.http import auto

    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)
    monkeypatch.setenv(PER_CLIENT, "7")
    monkeypatch.setenv("MINIBERT_TOKEN", "correct-horse-battery")
    measured, made = middlewares()
    assert measured.cls is Measured
    assert made.cls is Gate and made.kwargs["token"] == "correct-horse-battery"
    assert made.kwargs["limits"] == Limits(per_client=7) and auto.AutoHTTPProtocol.__name__ == "Impatient"
