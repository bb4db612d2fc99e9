"""The recruiter's HTTP API: what an engine is asked for, and what is said of a request that cannot be answered.

Nothing that was typed is in a refusal or in a log: it may be a person's CV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from multitask.recruit.index import COMPLETION, SUITABILITY
from ray_jobs.recruit.messages import (
    VALID,
    CompleteAnswer,
    CompleteRequest,
    Health,
    HitAnswer,
    SearchAnswer,
    SearchRequest,
    SuitabilityAnswer,
    SuitabilityRequest,
    TitleAnswer,
)
from ray_jobs.serving.app import app_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from multitask.recruit.completion import Title
    from multitask.recruit.search import Hit

PAGE = {  # path -> file of the page, media type
    "/": ("recruit/page.html", "text/html"),
    "/script.js": ("recruit/script.js", "text/javascript"),
}
PERSON_DECIDES = "A person decides: this compares words, it knows nothing of the applicant."


@dataclass(frozen=True)
class IndexFacts:
    """What an index directory has."""

    postings: int
    """How many postings."""
    passages: int
    """How many passages of them."""
    parts: frozenset[str]
    """Which of completion and suitability there are."""
    labels: str = ""
    """What suitability learned from."""


@dataclass(frozen=True)
class Judgement:
    qualified: bool
    probability: float


class Engine(Protocol):
    """The models behind the API. It is asked to search, and for no more than its `facts.parts` beside."""

    @property
    def facts(self) -> IndexFacts: ...

    async def search(self, asked: SearchRequest) -> list[Hit]: ...

    async def complete(self, asked: CompleteRequest) -> list[Title]: ...

    async def suitability(self, asked: SuitabilityRequest) -> Judgement: ...


def build_app(engine: Engine, token: str | None = None) -> FastAPI:
    """The API and the page of an engine. token: what requests must bring as a bearer; without one, only this machine
    is answered."""
    return app_of(
        "BERT as a Recruiter",
        "Search job postings, complete roles, judge suitability.",
        lambda app, wanted: add_answers(app, engine, wanted),
        VALID,
        PAGE,
        token,
    )


def add_answers(app: FastAPI, engine: Engine, wanted: Sequence[Any]) -> None:
    """Adds the API's paths to the app. wanted: the dependencies of all paths but /health."""
    from fastapi import HTTPException

    facts = engine.facts

    def must_have(part: str) -> None:
        if part not in facts.parts:
            raise HTTPException(404, f"{part}: this index has none; `minibert recruit index --{part} BUNDLE` adds one")

    @app.get("/health")
    async def health() -> Health:
        """Whether the models are loaded, and what there is."""
        parts = ["search", *sorted(facts.parts)]
        return Health(status="ok", postings=facts.postings, passages=facts.passages, parts=parts)

    @app.post("/search", dependencies=wanted)
    async def search(asked: SearchRequest) -> SearchAnswer:
        """The postings that fit a need or a CV, best first, each with the passage and the words that it fits by."""
        return SearchAnswer(hits=[hit_answer(hit) for hit in await engine.search(asked)])

    @app.post("/complete", dependencies=wanted)
    async def complete(asked: CompleteRequest) -> CompleteAnswer:
        """The likeliest titles of a job description, likeliest first."""
        must_have(COMPLETION)
        titles = await engine.complete(asked)
        return CompleteAnswer(titles=[TitleAnswer(text=some.text, probability=some.probability) for some in titles])

    @app.post("/suitability", dependencies=wanted, response_model_exclude_none=True)
    async def suitability(asked: SuitabilityRequest) -> SuitabilityAnswer:
        """Whether an application is qualified for a job. The probability only where `score` is true."""
        must_have(SUITABILITY)
        found = await engine.suitability(asked)
        probability = found.probability if asked.score else None
        return SuitabilityAnswer(
            qualified=found.qualified, note=PERSON_DECIDES, labels=facts.labels, probability=probability
        )


def hit_answer(hit: Hit) -> HitAnswer:
    posting = hit.posting
    return HitAnswer(
        id=posting.id,
        title=posting.title,
        company=posting.company,
        location=posting.location,
        score=hit.score,
        passage=hit.passage,
        words=list(hit.words),
    )
