"""What stands before the replica, in Ray Serve's HTTP proxy: a request goes on when its body is there, and a client
that sends slowly, or too much at once, takes nothing from the others. Plain ASGI, and what uvicorn lacks.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray_jobs.recruit.guard import TOO_LARGE, Answer, App, Gone, Message, Receive, Send, read_body, replayed, unwanted

TOKEN = "MINIBERT_TOKEN"
PER_CLIENT = "MINIBERT_PER_CLIENT"  # how the option --per-client reaches the proxy's process
CALLBACK = f"{__name__}.middlewares"
DEFAULT_PER_CLIENT = 64
CLOSE = (b"connection", b"close")  # or the rest of a body that nobody reads would be taken for the next request


@dataclass(frozen=True)
class Limits:
    """head, idle, body: seconds until a request's headers are there, between two pieces of its body, for all of it.

    per_client: requests of one address in progress. reading: bodies on their way, of all clients.
    """

    head: float = 10.0
    idle: float = 5.0
    body: float = 20.0
    per_client: int = DEFAULT_PER_CLIENT
    reading: int = 512


class Gate:
    """Reads bodies whole before the app hears of their requests."""

    def __init__(self, app: App, token: str | None = None, limits: Limits | None = None) -> None:
        self.app, self.token, self.limits = app, token, limits or Limits()
        self._of_clients: Counter[str] = Counter()
        self._reading = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if refusal := unwanted(scope, self.token):
            await Answer(send).refuse(*refusal, CLOSE)
            return
        client = _client(scope)
        if self._of_clients[client] >= self.limits.per_client:
            told = f"requests: {self.limits.per_client} of this address are in progress; valid: fewer at once"
            await Answer(send).refuse(429, told, (b"retry-after", b"1"), CLOSE)
            return
        with self._counted(client):
            await self._pass(scope, receive, send)

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        self._of_clients[client] += 1
        try:
            yield
        finally:
            self._of_clients[client] -= 1
            if not self._of_clients[client]:
                del self._of_clients[client]

    async def _pass(self, scope: Message, receive: Receive, send: Send) -> None:
        limits = self.limits
        if self._reading >= limits.reading:
            await Answer(send).refuse(503, "server: too many bodies on their way", (b"retry-after", b"1"), CLOSE)
            return
        self._reading += 1
        try:
            async with asyncio.timeout(limits.body):
                body = await read_body(_hurried(receive, limits.idle))
        except Gone:
            return
        except TimeoutError:
            told = f"body: too slow; valid: all of it in {limits.body:g} s, no pause of {limits.idle:g} s"
            await Answer(send).refuse(408, told, CLOSE)
            return
        finally:
            self._reading -= 1
        if body is None:
            await Answer(send).refuse(413, TOO_LARGE, CLOSE)
            return
        await self.app(scope, replayed(body, receive), send)


def _client(scope: Message) -> str:
    """The address that the connection comes from. What headers say of others behind it anyone can write."""
    return str((scope.get("client") or ("",))[0])


def _hurried(receive: Receive, seconds: float) -> Receive:
    async def soon() -> Message:
        async with asyncio.timeout(seconds):
            return await receive()

    return soon


def middlewares() -> list[Any]:
    """Ray Serve calls it in the proxy's process as that starts (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)."""
    from starlette.middleware import Middleware

    limits = Limits(per_client=int(os.environ.get(PER_CLIENT, DEFAULT_PER_CLIENT)))
    close_slow_heads(limits.head)
    return [Middleware(Gate, token=os.environ.get(TOKEN) or None, limits=limits)]


def close_slow_heads(seconds: float) -> None:
    """Makes uvicorn, which waits for a request's headers for ever, close connections that do not send them in time."""
    from uvicorn.protocols.http import auto

    auto.AutoHTTPProtocol = impatient(auto.AutoHTTPProtocol, seconds)


def impatient(protocol: Any, seconds: float) -> Any:
    """The uvicorn protocol with a deadline for each request's headers. Between requests its own keep-alive counts."""

    class Impatient(protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._deadline = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._no_deadline()  # a request is under way
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._no_deadline()
            super().connection_lost(exc)

        def _no_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Impatient
