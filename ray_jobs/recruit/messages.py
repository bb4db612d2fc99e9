"""What the recruiter's API is asked and what it answers, as JSON, and what may be in it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_CHARS = 20_000
MAX_K = 50
Mode = Literal["hybrid", "dense", "bm25"]  # multitask/recruit/search.py: MODES

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
    """A text without the space around it. Raises pydantic's error where it is blank or has control characters."""
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


def _whole(value: object) -> object:
    """A float that is a whole number as an int: JSON has one kind of number, and 8.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


K = Annotated[int, Field(ge=1, le=MAX_K), BeforeValidator(_whole)]


class Asked(BaseModel):
    """A request's body: nothing is converted, nothing unknown is let pass."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class SearchRequest(Asked):
    text: Text = Field(description=f"A need in words, or a CV: {_TEXT}.", examples=["accountant, knows 1C"])
    k: K = Field(10, description=f"How many postings: {VALID['k']}.")
    mode: Mode = Field("hybrid", description="By meaning and words (hybrid), meaning (dense) or words (bm25).")


class CompleteRequest(Asked):
    text: Text = Field(description=f"A job description: {_TEXT}.", examples=["Keep the books, pay salaries."])
    k: K = Field(5, description=f"How many titles: {VALID['k']}.")


class SuitabilityRequest(Asked):
    job: Text = Field(description=f"The job: {_TEXT}.", examples=["Accountant. Keeps the books."])
    application: Text = Field(description=f"What is sent for it: {_TEXT}.", examples=["Four years of audit."])
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
