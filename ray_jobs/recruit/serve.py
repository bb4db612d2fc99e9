"""`minibert recruit serve`: the recruiter's API and page on Ray Serve, on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from multitask.bundle.bundle import read_bundle
from multitask.inference.embed import default_device
from multitask.recruit.completion import Completer, Title
from multitask.recruit.index import PARTS
from multitask.recruit.search import Hit, Searcher
from multitask.recruit.suitability import Suitability, labels_note, qualified
from multitask.storage.storage import Storage
from ray_jobs.recruit.endpoints import IndexFacts, Judgement, build_app
from ray_jobs.recruit.messages import CompleteRequest, SearchRequest, SuitabilityRequest
from ray_jobs.screen import Screen
from ray_jobs.serving.start import Listening, prepare_ray, run_on_ray

BATCH = 16  # requests at once
WAIT_SECONDS = 0.005  # for company; more than a batch's own time would only be waited
ONGOING = 64  # requests in the replica, their bodies read (gate.py); batches are made of those
QUEUED = 256  # requests that wait for it; what is more is refused with 503


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


def serve(directory: str, listening: Listening, screen: Screen) -> None:
    """Serves an index directory until Ctrl-C or SIGTERM. The token is that of the environment's MINIBERT_TOKEN.

    Raises UserError before anything starts: no sound index, no token for a host that others reach, a port in use.
    """
    token = listening.check()
    prepare_ray("recruit serve", listening)
    facts = Models.open(directory).facts  # says what is wrong with it in one line, which a replica cannot
    loading = f"loading {facts.postings} postings, {', '.join(['search', *sorted(facts.parts)])} ..."
    run_on_ray(application(Storage(directory).uri, token), "recruiter", listening, loading, screen)
