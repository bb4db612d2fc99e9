"""`minibert recruit serve`: an index and its bundles behind HTTP, on Ray Serve."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from multitask.errors import UserError
from multitask.recruit.completion import Completer, Title
from multitask.recruit.index import PARTS
from multitask.recruit.search import Hit, Searcher
from multitask.recruit.suitability import Suitability
from multitask.storage import Storage, is_sealed
from ray_jobs.cluster import Cluster
from ray_jobs.options import Workers
from ray_jobs.screen import Screen

TOKEN = "MINIBERT_TOKEN"
BATCH = 8  # requests answered together, at most
WAIT_SECONDS = 0.003  # that the first of them waits for the others
MOST_WAITING = 64  # requests; more get 503
NAME = "recruiter"


def serve(directory: str, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until Ctrl-C. Raises UserError for a directory without an index, a port that is taken, and an address that
    others reach without a token."""
    token = os.environ.get(TOKEN) or None
    check_address(host, port, token)
    storage = Storage(directory)
    Searcher.open(storage.uri)  # what is wrong with it is said here, in one line, and not by a replica
    screen = Screen()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        with Cluster(Workers(), screen), serving(storage.uri, host, port, token):
            screen.say(f"serving {storage.uri} at http://{_shown(host)}:{port}/ ; Ctrl-C ends it")
            threading.Event().wait()
    except KeyboardInterrupt:
        screen.say("ended")


def check_address(host: str, port: int, token: str | None) -> None:
    """Before Ray starts: whether the address is one, is free, and needs a token."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UserError(
            f"--host '{host}': no address; 127.0.0.1 is this machine alone, 0.0.0.0 all of its addresses"
        ) from None
    if not local and not token:
        raise UserError(f"--host {host}: others reach it; set {TOKEN} to a token that they have to send")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"--host {host} --port {port}: cannot be used: {error.strerror}") from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def serving(directory: str, host: str, port: int, token: str | None) -> Iterator[None]:
    """The application, in the Ray that runs here."""
    from ray import serve

    # Nothing that was typed is in a path, but who asked when is nobody's business either.
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    deployment = serve.deployment(
        serve.ingress()(Recruiter),
        name=NAME,
        ray_actor_options={"num_cpus": 1},
        max_ongoing_requests=MOST_WAITING,
        logging_config=quiet,
    )
    serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
    try:
        serve.run(deployment.bind(directory, token), name=NAME, route_prefix="/")
        yield
    finally:
        serve.shutdown()


class Recruiter:
    """A replica: opens the index, warms it, and answers in batches. An `Engine` of recruit_api.py."""

    def __init__(self, directory: str, token: str | None) -> None:
        import torch
        from ray import serve

        torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # one is left for the proxy
        storage = Storage(directory)
        self.token, self.searcher = token, Searcher.open(directory)
        self.searcher.warm()
        models = {name: _part(storage, name) for name in PARTS if is_sealed(storage, name)}
        self.parts = frozenset({"search", *models})
        self._completer, self._suitability = (models.get(name) for name in PARTS)
        batched = partial(serve.batch, max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
        self._ask_search, self._ask_titles, self._ask_fit = (
            batched()(_in_thread(answer)) for answer in (self._searched, self._completed, self._judged)
        )

    def __serve_build_asgi_app__(self) -> Any:
        from ray_jobs.recruit_api import build_app

        return build_app(self, self.token)

    def facts(self) -> dict[str, Any]:
        index = self.searcher.index
        return {"postings": len(index.postings), "passages": len(index.passages)}

    async def search(self, query: str, k: int, mode: str) -> list[Hit]:
        return await self._ask_search((query, k, mode))

    async def complete(self, description: str, k: int) -> list[Title]:
        return await self._ask_titles((description, k))

    async def suitability(self, job: str, application: str) -> float:
        return await self._ask_fit((job, application))

    def _searched(self, asked: list[tuple[str, int, str]]) -> list[list[Hit]]:
        """One search for each mode among them, with the largest k."""
        found: dict[int, list[Hit]] = {}
        for mode in {mode for _, _, mode in asked}:
            mine = [place for place, one in enumerate(asked) if one[2] == mode]
            most = max(asked[place][1] for place in mine)
            for place, hits in zip(mine, self.searcher.search([asked[at][0] for at in mine], most, mode), strict=True):
                found[place] = hits[: asked[place][1]]
        return [found[place] for place in range(len(asked))]

    def _completed(self, asked: list[tuple[str, int]]) -> list[list[Title]]:
        assert self._completer is not None
        titles = self._completer.complete([text for text, _ in asked], max(k for _, k in asked))
        return [some[:k] for some, (_, k) in zip(titles, asked, strict=True)]

    def _judged(self, asked: list[tuple[str, str]]) -> list[float]:
        assert self._suitability is not None
        return [float(value) for value in self._suitability.probabilities(asked)]


def _part(storage: Storage, name: str) -> Any:
    from multitask.bundle import load_bundle

    return {"completion": Completer, "suitability": Suitability}[name](load_bundle(storage, name))


def _in_thread(answer: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], Awaitable[list[Any]]]:
    """So that /health answers meanwhile."""

    async def answered(asked: list[Any]) -> list[Any]:
        return await asyncio.to_thread(answer, asked)

    return answered
