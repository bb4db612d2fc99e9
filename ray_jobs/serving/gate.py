"""What stands before the replica, in Ray Serve's HTTP proxy: a request goes on when its body is there, and a client
that sends slowly, or too much at once, takes nothing from the others. Plain ASGI, and what uvicorn lacks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray_jobs.serving.guard import (
    OPEN,
    TOO_LARGE,
    Answer,
    App,
    Gone,
    Message,
    Receive,
    Send,
    read_body,
    replayed,
    unwanted,
)
from ray_jobs.serving.measured import Measured

TOKEN = "MINIBERT_TOKEN"
PER_CLIENT = "MINIBERT_PER_CLIENT"  # how the option --per-client reaches the proxy's process
CALLBACK = f"{__name__}.middlewares"
DEFAULT_PER_CLIENT = 64
# The paths of both services that are asked something.
ASKED = frozenset({"/search", "/complete", "/suitability", "/embed", "/predict", "/similarity"})
CLOSE = (b"connection", b"close")  # or the rest of a body that nobody reads would be taken for the next request


@dataclass(frozen=True)
class Limits:
    """What one client may take from the others."""

    head: float = 10.0
    """Seconds until a request's headers are there."""
    idle: float = 5.0
    """Seconds between two pieces of a request's body."""
    body: float = 20.0
    """Seconds for all of a request's body."""
    per_client: int = DEFAULT_PER_CLIENT
    """Requests of one address in progress."""
    reading: int = 512
    """Bodies on their way, of all clients."""


@dataclass(eq=False)
class Request:
    """A request in progress."""

    client: str
    """The address that it comes from."""
    heard: float = 0.0
    """When the last piece of its body came."""
    clock: asyncio.Timeout | None = None
    """The deadline of its body, as long as that is on its way."""


class Gate:
    """Reads bodies whole before the app hears of their requests.

    Where a client has too many, or too many bodies are on their way, the one that has been silent for the longest makes
    room for the new one: who says what he has to say is answered, also beside others of his address that do not.
    """

    def __init__(self, app: App, token: str | None = None, limits: Limits | None = None) -> None:
        self.app, self.token, self.limits = app, token, limits or Limits()
        self._requests: set[Request] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if refusal := unwanted(scope, self.token):
            await Answer(send).refuse(*refusal, CLOSE)
            return
        request = Request(_client(scope))
        if not self._room_for(request):
            told = f"requests: {self.limits.per_client} of this address are in progress; valid: fewer at once"
            await Answer(send).refuse(429, told, (b"retry-after", b"1"), CLOSE)
            return
        self._requests.add(request)
        try:
            await self._pass(request, scope, receive, send)
        finally:
            self._requests.discard(request)

    def _room_for(self, request: Request) -> bool:
        """Whether there is room for the request, or could be made.

        There is none where all that its address may have are being answered already.
        """
        own = [other for other in self._requests if other.client == request.client]
        if len(own) >= self.limits.per_client and not self._cut(own):
            return False
        if sum(other.clock is not None for other in self._requests) >= self.limits.reading:
            self._cut(self._requests)
        return True

    def _cut(self, requests: Iterable[Request]) -> bool:
        """Ends the body that has been silent for the longest; False where none is on its way."""
        silent = [(other.heard, id(other), other.clock, other) for other in requests if other.clock]
        if not silent:
            return False
        _, _, clock, longest = min(silent)
        clock.reschedule(0.0)
        longest.clock = None
        self._requests.discard(longest)
        return True

    async def _pass(self, request: Request, scope: Message, receive: Receive, send: Send) -> None:
        limits = self.limits
        try:
            async with asyncio.timeout(limits.body) as request.clock:
                body = await read_body(_hurried(request, receive, limits.idle))
        except Gone:
            return
        except TimeoutError:
            told = f"body: too slow; valid: all of it in {limits.body:g} s, no pause of {limits.idle:g} s"
            await Answer(send).refuse(408, told, CLOSE)
            return
        finally:
            request.clock = None
        if body is None:
            await Answer(send).refuse(413, TOO_LARGE, CLOSE)
            return
        await self.app(scope, replayed(body, receive), send)


def _client(scope: Message) -> str:
    """The address that the connection comes from; what headers say of others behind it, anyone can write."""
    return str((scope.get("client") or ("",))[0])


def _hurried(request: Request, receive: Receive, seconds: float) -> Receive:
    """A `receive` that raises TimeoutError where the next piece does not come in so many seconds."""

    async def soon() -> Message:
        request.heard = asyncio.get_running_loop().time()
        async with asyncio.timeout(seconds):
            return await receive()

    return soon


def middlewares() -> list[Any]:
    """The gate and what counts, for Ray Serve, which calls this in its proxy's process as that starts
    (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH)."""
    from starlette.middleware import Middleware

    limits = Limits(per_client=int(os.environ.get(PER_CLIENT, DEFAULT_PER_CLIENT)))
    close_slow_heads(limits.head)
    return [Middleware(layer, **options) for layer, options in layers(os.environ.get(TOKEN) or None, limits)]


def layers(token: str | None, limits: Limits) -> list[tuple[Any, dict[str, Any]]]:
    """What stands before an app, the outermost first, with its options."""
    return [(Measured, {"token": token, "paths": OPEN | ASKED}), (Gate, {"token": token, "limits": limits})]


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
