"""How an HTTP service refuses: in JSON, with what would be valid, and nothing of what was typed, which may be a
person's own words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from ray_jobs.serving.pages import asked_fields

if TYPE_CHECKING:
    from fastapi import FastAPI

MAX_CHARS = 20_000
TEXT = f"a text of 1 to {MAX_CHARS:,} characters, not blank, without control characters but tab and line breaks"
BODY = "a JSON object with the fields of the schema (/docs), sent as application/json"
UNKNOWN = "extra_forbidden"
PROBLEMS = {  # pydantic's error type -> what is wrong
    "missing": "missing",
    UNKNOWN: "has an unknown field",
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
    "list_type": "not a list",
    "too_short": "empty",
    "too_long": "too long",
}
CLEARER = {  # what FastAPI says, and what is meant
    "There was an error parsing the body": f"body: not JSON; valid: {BODY}",
    "Not Found": "path: there is no such; valid: those of /docs",
    "Method Not Allowed": "method: not for this path; valid: that of the header Allow",
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


def whole(value: object) -> object:
    """A float that is a whole number as an int: JSON has one kind of number, and 8.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(whole)


class Asked(BaseModel):
    """A request's body: nothing is converted, nothing unknown is let pass."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Problem(BaseModel):
    field: str
    problem: str
    valid: str


class Refusal(BaseModel):
    """What every 4xx and 5xx answers. It never holds what was typed."""

    message: str
    problems: list[Problem] = []


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "Refused; the message says what would be valid."},
    "5XX": {"model": Refusal, "description": "The server failed, or has too much to do."},
}


def add_refusals(app: FastAPI, valid: Mapping[str, str]) -> None:
    """Has the app answer with what is wrong, in place of FastAPI's own answers, which repeat what was typed. valid:
    field -> what it may be, that of `body` among them."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    async def invalid(request: Any, error: Any) -> JSONResponse:
        known = ", ".join(asked_fields(app.openapi(), request.url.path, request.method))
        problems = [problem(some, {**valid, UNKNOWN: f"the fields {known}"}) for some in error.errors()]
        message = "; ".join(f"{some.field}: {some.problem}; valid: {some.valid}" for some in problems)
        return JSONResponse(Refusal(message=message, problems=problems).model_dump(), 422)

    async def refused(request: Any, error: Any) -> JSONResponse:
        message = CLEARER.get(error.detail, str(error.detail))
        return JSONResponse(Refusal(message=message).model_dump(), error.status_code, error.headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)


def problem(error: Mapping[str, Any], valid: Mapping[str, str]) -> Problem:
    """An error of pydantic's without the input; a field's name only where it is one of ours. valid: field, or UNKNOWN
    for a field that is none -> what would do."""
    place: Sequence[Any] = error["loc"]
    field = next((part for part in place[1:] if part in valid), "body")
    wanted = valid[UNKNOWN if error["type"] == UNKNOWN else field]
    return Problem(field=field, problem=PROBLEMS.get(error["type"], "not valid"), valid=wanted)
