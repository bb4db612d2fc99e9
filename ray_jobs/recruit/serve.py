"""`minibert recruit serve`: the recruiter's API and page on Ray Serve, on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from multitask.bundle.bundle import read_bundle
from multitask.errors import UserError
from multitask.inference.embed import default_device
from multitask.recruit.completion import Completer, Title
from multitask.recruit.index import PARTS
from multitask.recruit.search import Hit, Searcher
from multitask.recruit.suitability import Suitability, labels_note, qualified
from multitask.storage.storage import Storage
from ray_jobs.options import Workers
from ray_jobs.recruit.endpoints import IndexFacts, Judgement, build_app
from ray_jobs.recruit.gate import CALLBACK, DEFAULT_PER_CLIENT, PER_CLIENT, TOKEN
from ray_jobs.recruit.messages import CompleteRequest, SearchRequest, SuitabilityRequest
from ray_jobs.runners.cluster import Cluster
from ray_jobs.screen import Screen

TOKEN_CHARS = 16  # at least
LOOPBACK = ("127.0.0.1", "localhost", "::1")

BATCH = 16  # requests at once
WAIT_SECONDS = 0.005  # for company; more than a batch's own time would only be waited
ONGOING = 64  # requests in the replica, their bodies read (gate.py); batches are made of those
KEEP_ALIVE_SECONDS = 30  # that a connection may be silent between two requests
QUEUED = 256  # requests that wait for it; what is more is refused with 503

ENVIRONMENT = {  # read when Ray is imported, here and in the processes that it starts
    # Whatever --host is, Ray's own ports listen on all interfaces: they want a token that Ray makes.
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK,
    # The models have a thread of their own. Without Ray's two more a request costs a third less of CPU beside them.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "OMP_WAIT_POLICY": "passive",  # threads that spin take the cores from those that answer
}


@dataclass(frozen=True)
class Models:
    """The models of an index directory, loaded. completer, judge: None where the directory has no such bundle."""

    searcher: Searcher
    completer: Completer | None
    judge: Suitability | None
    facts: IndexFacts

    @classmethod
    def open(cls, directory: str) -> Models:
        """Loads a directory. Raises UserError where it is no sound index."""
        storage, where = Storage(directory), default_device()
        searcher = Searcher.open(directory, where)
        bundles = {part: read_bundle(storage, part) for part in PARTS if storage.exists(f"{part}/manifest.json")}
        completion, suitability = (bundles.get(part) for part in PARTS)
        facts = IndexFacts(
            len(searcher.index.postings),
            len(searcher.index.passages),
            frozenset(bundles),
            labels_note(suitability) if suitability else "",
        )
        return cls(
            searcher,
            Completer(completion, where) if completion else None,
            Suitability(suitability, where) if suitability else None,
            facts,
        )

    def search(self, asked: Sequence[SearchRequest]) -> list[list[Hit]]:
        """The hits of each request; requests that want as many hits in the same way are searched together."""
        alike = defaultdict[tuple[int, str], list[int]](list)
        for place, some in enumerate(asked):
            alike[some.k, some.mode].append(place)
        found: dict[int, list[Hit]] = {}
        for (k, mode), places in alike.items():
            found |= zip(places, self.searcher.search([asked[place].text for place in places], k, mode), strict=True)
        return [found[place] for place in range(len(asked))]

    def complete(self, asked: Sequence[CompleteRequest]) -> list[list[Title]]:
        assert self.completer is not None
        return [self.completer.complete([some.text], some.k)[0] for some in asked]

    def suitability(self, asked: Sequence[SuitabilityRequest]) -> list[Judgement]:
        assert self.judge is not None
        found = self.judge.probabilities([(some.job, some.application) for some in asked])
        return [Judgement(bool(yes), float(p)) for yes, p in zip(qualified(found), found, strict=True)]


def application(directory: str, token: str | None) -> Any:
    """Ray Serve's application: one replica that has the models, and answers together what came while it was busy."""
    from ray import serve

    @serve.deployment(
        name="recruiter",
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(default_device().type == "cuda")},
        graceful_shutdown_timeout_s=5,
    )
    @serve.ingress()
    class Recruiter:
        """The engine of the API. The models work in threads, so that requests are taken in meanwhile."""

        def __init__(self, directory: str, token: str | None) -> None:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))  # one core for requests that come meanwhile
            self.models, self.token = Models.open(directory), token
            self.models.searcher.warm()

        @property
        def facts(self) -> IndexFacts:
            return self.models.facts

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
        async def search(self, asked: list[SearchRequest]) -> list[list[Hit]]:
            return await asyncio.to_thread(self.models.search, asked)

        @serve.batch(max_batch_size=1, batch_wait_timeout_s=0)  # one at a time: a beam is a batch already
        async def complete(self, asked: list[CompleteRequest]) -> list[list[Title]]:
            return await asyncio.to_thread(self.models.complete, asked)

        @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
        async def suitability(self, asked: list[SuitabilityRequest]) -> list[Judgement]:
            return await asyncio.to_thread(self.models.suitability, asked)

        def __serve_build_asgi_app__(self) -> Any:
            return build_app(self, self.token)

    deployment: Any = Recruiter
    return deployment.bind(directory, token)


def serve(directory: str, host: str, port: int, screen: Screen, per_client: int = DEFAULT_PER_CLIENT) -> None:
    """Serves an index directory until Ctrl-C or SIGTERM. The token is that of the environment's MINIBERT_TOKEN.

    per_client: requests of one address that may be in progress.

    Raises UserError before anything starts: no sound index, no token for a host that others reach, a port in use.
    """
    token = wanted_token(host)
    check_port(host, port)
    if os.environ.get("RAY_ADDRESS", "local") not in ("", "local"):
        raise UserError("RAY_ADDRESS: set; `recruit serve` is for this machine, with a Ray of its own: unset it")
    facts = Models.open(directory).facts  # says what is wrong with it in one line, which a replica cannot
    os.environ.update({**ENVIRONMENT, PER_CLIENT: str(per_client)})
    from ray import serve as ray_serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    with Cluster(Workers(), screen):  # its end is Serve's too
        listen = {"host": host, "port": port, "keep_alive_timeout_s": KEEP_ALIVE_SECONDS}
        ray_serve.start(proxy_location="HeadOnly", http_options=listen, logging_config=quiet)
        screen.note(f"loading {facts.postings} postings, {', '.join(['search', *sorted(facts.parts)])} ...")
        ray_serve.run(application(Storage(directory).uri, token), name="recruiter", logging_config=quiet)
        with signals() as stop:
            screen.say(f"http://{f'[{host}]' if ':' in host else host}:{port}  (API: /docs; Ctrl-C ends it)")
            stop.wait()
        screen.say("stopping ...")


@contextmanager
def signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, within the context; behind it they do what they did before."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wanted_token(host: str) -> str | None:
    """The environment's token. Raises UserError where a host that others reach has none, and for one easily guessed."""
    token = os.environ.get(TOKEN)
    if not token:
        if host not in LOOPBACK:
            raise UserError(
                f"--host '{host}': others can reach it, so it wants a token: set {TOKEN} in the environment, "
                f"or serve on {LOOPBACK[0]}"
            )
        return None
    if not re.fullmatch(rf"[!-~]{{{TOKEN_CHARS},}}", token):
        raise UserError(f"{TOKEN}: cannot be one; valid: {TOKEN_CHARS} printable ASCII characters or more, no blanks")
    return token


def check_port(host: str, port: int) -> None:
    """Raises UserError where nothing can listen there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        raise UserError(f"--host '{host}' --port {port}: cannot listen there: {error.strerror}") from error
