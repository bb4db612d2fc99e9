"""What every request to the recruiter must pass, and what every answer carries. Plain ASGI."""

from __future__ import annotations

import hmac
import json
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Two texts at their longest, every character written as a pair of \uXXXX, are 480,000 bytes.
MAX_BODY = 500_000
TOO_LARGE = f"body: too large; valid: up to {MAX_BODY:,} bytes"
READ_ON = 20 * MAX_BODY  # of a body that is too large: a sender that is not read to the end may miss the answer
OPEN = frozenset(
    {"/", "/style.css", "/script.js", "/icon.svg", "/docs", "/openapi.json", "/health"}
)  # no posting's text
HERE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")  # this machine, as a request names it
HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

logger = logging.getLogger(__name__)


class Guard:
    """Lets requests pass that may be answered, and puts HEADERS on what is answered.

    With a token, every path that is not OPEN wants it. Without one the server is for this machine alone: a request
    under another host's name comes from a page elsewhere whose name was made to mean this machine (DNS rebinding).
    """

    def __init__(self, app: App, token: str | None = None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = Answer(send)
        if refusal := unwanted(scope, self.token):
            await answer.refuse(*refusal)
            return
        try:
            body = await read_body(receive)
        except Gone:
            return
        if body is None:
            await answer.refuse(413, TOO_LARGE)
            return
        try:
            await self.app(scope, replayed(body, receive), answer)
        except Exception as error:  # its message may hold what was typed
            where = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("a request failed: %s at %s:%s", type(error).__name__, where.filename, where.lineno)
            if answer.started:
                raise ConnectionAbortedError("the answer had begun") from None
            await answer.refuse(500, "the server failed; its log says where")


def unwanted(scope: Message, token: str | None) -> tuple[int, str] | None:
    """Status and message for a request that is refused for where it comes from; None where it is welcome."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if token is None:
        if HERE.fullmatch(headers.get("host", "")):
            return None
        return 403, "host: without a token only this machine is answered; valid: localhost, 127.0.0.1"
    if scope["path"] in OPEN:
        return None
    given = headers.get("authorization", "").encode("latin-1")
    if hmac.compare_digest(given, b"Bearer " + token.encode()):
        return None
    return 401, "token: missing or wrong; valid: the header Authorization: Bearer TOKEN"


class Answer:
    """Sends what the app sends, with HEADERS."""

    def __init__(self, send: Send) -> None:
        self.send, self.started = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *own]}
        await self.send(message)

    async def refuse(self, status: int, message: str, *more: tuple[bytes, bytes]) -> None:
        """Answers with a refusal in JSON. more: headers beside the usual ones."""
        body = json.dumps({"message": message, "problems": []}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
        headers += more
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class Gone(Exception):
    """The client has closed the connection before its request was whole."""


async def read_body(receive: Receive) -> bytes | None:
    """A request's whole body; None where it is larger than MAX_BODY. Raises Gone where the client has left."""
    parts, size, more = list[bytes](), 0, True
    while more and size <= READ_ON:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        size += len(part := message.get("body", b""))
        parts += [part] if size <= MAX_BODY else []
        more = message.get("more_body", False)
    return b"".join(parts) if size <= MAX_BODY else None


def replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read, and then what comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message
