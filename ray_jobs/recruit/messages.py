"""What the recruiter's API is asked and what it answers, as JSON, and what may be in it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from ray_jobs.serving.refusals import BODY, TEXT, Asked, Text, Whole

MAX_K = 50
Mode = Literal["hybrid", "dense", "bm25"]  # multitask/recruit/search.py: MODES
VALID = {  # field -> what it may be, in the schema as in refusals
    "text": TEXT,
    "job": TEXT,
    "application": TEXT,
    "k": f"a whole number from 1 to {MAX_K}",
    "mode": "hybrid, dense or bm25",
    "score": "true or false",
    "body": BODY,
}
K = Annotated[int, Field(ge=1, le=MAX_K), Whole]


class SearchRequest(Asked):
    text: Text = Field(description=f"A need in words, or a CV: {TEXT}.", examples=["accountant, knows 1C"])
    k: K = Field(10, description=f"How many postings: {VALID['k']}.")
    mode: Mode = Field("hybrid", description="By meaning and words (hybrid), meaning (dense) or words (bm25).")


class CompleteRequest(Asked):
    text: Text = Field(description=f"A job description: {TEXT}.", examples=["Keep the books, pay salaries."])
    k: K = Field(5, description=f"How many titles: {VALID['k']}.")


class SuitabilityRequest(Asked):
    job: Text = Field(description=f"The job: {TEXT}.", examples=["Accountant. Keeps the books."])
    application: Text = Field(description=f"What is sent for it: {TEXT}.", examples=["Four years of audit."])
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
