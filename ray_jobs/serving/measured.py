"""Counts what a service answers, and how long it takes, for Prometheus, at /metrics. Plain ASGI, before all else, so
that refusals count too."""

from __future__ import annotations

import time
from typing import Any

from ray_jobs.serving.guard import Answer, App, Message, Receive, Send, unwanted

PATH = "/metrics"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds


class Measured:
    """Puts each request under its path and status; paths that are not among `paths` are one, or anyone could make the
    counters many."""

    def __init__(self, app: App, token: str | None, paths: frozenset[str]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.app, self.token, self.paths = app, token, paths
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry, "namespace": "minibert"}
        self.requests = Counter("requests", "Requests that were answered.", ["path", "status"], **named)
        self.seconds = Histogram(
            "request_seconds", "From a request's first byte to its answer's last.", ["path"], buckets=BUCKETS, **named
        )
        self.open = Gauge("requests_open", "Requests that are being answered.", **named)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == PATH:
            await self._tell(scope, send)
            return
        start, status, path = time.perf_counter(), "none", scope["path"] if scope["path"] in self.paths else "other"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        self.open.inc()
        try:
            await self.app(scope, receive, noting)
        finally:
            self.open.dec()
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - start)

    async def _tell(self, scope: Message, send: Send) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        answer = Answer(send)
        if refusal := unwanted(scope, self.token):
            await answer.refuse(*refusal)
            return
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode())]
        await answer({"type": "http.response.start", "status": 200, "headers": headers})
        await answer({"type": "http.response.body", "body": generate_latest(self.registry)})
