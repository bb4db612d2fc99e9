"""The recruiter's HTTP API: what may be asked, what is answered, and what is said of a request that cannot be.

Nothing that was typed is in a refusal or in a log: it may be a person's CV.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from multitask.recruit.completion import Title
    from multitask.recruit.search import Hit

MAX_CHARS = 20_000
MAX_K = 50
Mode = Literal["hybrid", "dense", "bm25"]  # multitask/recruit/search.py: MODES
PERSON_DECIDES = "A person decides: this compares words, it knows nothing of the applicant."

_TEXT = f"a text of 1 to {MAX_CHARS:,} characters, not blank, without control characters but tab and line breaks"
VALID = {  # field -> what it may be, in the schema as in refusals
    "text": _TEXT,
    "job": _TEXT,
    "application": _TEXT,
    "k": f"a whole number from 1 to {MAX_K}",
    "mode": "hybrid, dense or bm25",
    "score": "true or false",
    "body": "a JSON object with the fields of the schema (/docs), sent as application/json",
}
PROBLEMS = {  # pydantic's error type -> what is wrong
    "missing": "missing",
    "extra_forbidden": "has an unknown field",
    "json_invalid": "not JSON",
    "model_attributes_type": "not a JSON object",
    "string_type": "not a text",
    "string_unicode": "not valid Unicode",
    "string_too_short": "empty",
    "string_too_long": "too long",
    "blank": "blank",
    "control": "has control characters",
    "int_type": "not a whole number",
    "greater_than_equal": "too small",
    "less_than_equal": "too large",
    "literal_error": "not one of those there are",
    "bool_type": "neither true nor false",
}

_CONTROL = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"
_HAS_CONTROL = re.compile(f"[{_CONTROL}]")


def _typed(text: str) -> str:
    """Stripped. Raises pydantic's error where it is blank or has control characters."""
    if _HAS_CONTROL.search(text):
        raise PydanticCustomError("control", "has control characters")
    if not text.strip():
        raise PydanticCustomError("blank", "blank")
    return text.strip()


Text = Annotated[
    str,
    Field(min_length=1, max_length=MAX_CHARS),
    AfterValidator(_typed),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_CHARS,
            "pattern": rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$",
        }
    ),
]


class Asked(BaseModel):
    """A request's body: nothing is converted, nothing unknown is let pass."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SearchRequest(Asked):
    text: Text = Field(description=f"A need in words, or a CV: {VALID['text']}.", examples=["accountant, knows 1C"])
    k: int = Field(10, ge=1, le=MAX_K, description=f"How many postings: {VALID['k']}.")
    mode: Mode = Field("hybrid", description="By meaning and words (hybrid), meaning (dense) or words (bm25).")


class CompleteRequest(Asked):
    text: Text = Field(description=f"A job description: {VALID['text']}.", examples=["Keep the books, pay salaries."])
    k: int = Field(5, ge=1, le=MAX_K, description=f"How many titles: {VALID['k']}.")


class SuitabilityRequest(Asked):
    job: Text = Field(description=f"The job: {VALID['job']}.", examples=["Accountant. Keeps the books."])
    application: Text = Field(description=f"The application: {VALID['application']}.", examples=["Four years in audit."])
    score: bool = Field(False, description="Whether to answer with the probability too.")


class HitAnswer(BaseModel):
    id: str
    title: str
    company: str
    location: str
    score: float
    passage: str = Field(description="The posting's passage that fits best.")
    words: list[tuple[int, int]] = Field(
        description="Start and end, in the passage's Unicode code points, of the words that carried the match."
    )


class SearchAnswer(BaseModel):
    hits: list[HitAnswer]


class TitleAnswer(BaseModel):
    text: str
    probability: float


class CompleteAnswer(BaseModel):
    titles: list[TitleAnswer]


class SuitabilityAnswer(BaseModel):
    qualified: bool
    note: str
    labels: str = Field(description="What the model learned from, where its training said so.")
    probability: float | None = Field(None, ge=0, le=1, description="Only where `score` was true.")


class Health(BaseModel):
    status: Literal["ok"]
    postings: int
    passages: int
    parts: list[str] = Field(description="What can be asked: search, completion, suitability.")


class Problem(BaseModel):
    field: str
    problem: str
    valid: str


class Refusal(BaseModel):
    """What every 4xx and 5xx answers. It never holds what was typed."""

    message: str
    problems: list[Problem] = []


@dataclass(frozen=True)
class Facts:
    """parts: of completion and suitability, those that there are. labels: what suitability learned from."""

    postings: int
    passages: int
    parts: frozenset[str]
    labels: str = ""


@dataclass(frozen=True)
class Judgement:
    qualified: bool
    probability: float


class Engine(Protocol):
    """What answers. Only its `facts.parts` are asked beside search."""

    @property
    def facts(self) -> Facts: ...

    async def search(self, asked: SearchRequest) -> list[Hit]: ...

    async def complete(self, asked: CompleteRequest) -> list[Title]: ...

    async def suitability(self, asked: SuitabilityRequest) -> Judgement: ...


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "Refused; the message says what would be valid."},
    "5XX": {"model": Refusal, "description": "The server failed, or has too much to do."},
}


def build_app(engine: Engine, token: str | None = None) -> FastAPI:
    """The API and the page of an engine. token: what requests must bring as a bearer; without one, only this machine
    is answered."""
    from fastapi import FastAPI, HTTPException, Security
    from fastapi.security import HTTPBearer

    from ray_jobs.recruit_guard import Guard
    from ray_jobs.recruit_page import add_pages

    facts = engine.facts
    app = FastAPI(
        title="BERT as a Recruiter",
        summary="Search job postings, complete roles, judge suitability.",
        version="1",
        docs_url=None,  # Swagger's page comes from elsewhere: recruit_page.py has one that works without the internet
        redoc_url=None,
        redirect_slashes=False,
        responses=REFUSALS,
    )
    # The guard is what checks it; this writes it into the schema.
    wanted = [Security(HTTPBearer(auto_error=False))] if token else []

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
        must_have("completion")
        titles = await engine.complete(asked)
        return CompleteAnswer(titles=[TitleAnswer(text=some.text, probability=some.probability) for some in titles])

    @app.post("/suitability", dependencies=wanted, response_model_exclude_none=True)
    async def suitability(asked: SuitabilityRequest) -> SuitabilityAnswer:
        """Whether an application is qualified for a job. The probability only where `score` is true."""
        must_have("suitability")
        found = await engine.suitability(asked)
        probability = found.probability if asked.score else None
        return SuitabilityAnswer(
            qualified=found.qualified, note=PERSON_DECIDES, labels=facts.labels, probability=probability
        )

    add_pages(app)
    add_refusals(app)
    app.add_middleware(Guard, token=token)
    return app


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


def add_refusals(app: FastAPI) -> None:
    """Answers with what is wrong in place of FastAPI's own answers, which repeat what was typed."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    async def invalid(request: Any, error: Any) -> JSONResponse:
        problems = [problem(some) for some in error.errors()]
        message = "; ".join(f"{some.field}: {some.problem}; valid: {some.valid}" for some in problems)
        return JSONResponse(Refusal(message=message, problems=problems).model_dump(), 422)

    async def refused(request: Any, error: Any) -> JSONResponse:
        return JSONResponse(Refusal(message=str(error.detail)).model_dump(), error.status_code, error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def problem(error: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors without the input; a field's name only where it is one of ours."""
    place: Sequence[Any] = error["loc"]
    field = next((part for part in place[1:] if part in VALID), "body")
    return Problem(field=field, problem=PROBLEMS.get(error["type"], "not valid"), valid=VALID[field])
