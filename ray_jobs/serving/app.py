"""What every service's app is: FastAPI behind the guard, with its pages, and refusals that repeat nothing typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray_jobs.serving.refusals import REFUSALS, add_refusals

if TYPE_CHECKING:
    from fastapi import FastAPI


def app_of(
    title: str,
    summary: str,
    add_answers: Callable[[FastAPI, Sequence[Any]], None],
    valid: Mapping[str, str],
    static: Mapping[str, tuple[str, str]],
    token: str | None,
) -> FastAPI:
    """A service's app. add_answers: adds the API's paths, with the dependencies that all but /health have. valid: field
    -> what it may be. static: path -> file of the page, media type. token: what requests must bring as a bearer;
    without one, only this machine is answered."""
    from fastapi import FastAPI, Security
    from fastapi.security import HTTPBearer

    from ray_jobs.serving.guard import Guard
    from ray_jobs.serving.pages import add_pages

    app = FastAPI(
        title=title,
        summary=summary,
        version="1",
        docs_url=None,  # Swagger's page comes from elsewhere: pages.py has one that works without the internet
        redoc_url=None,
        redirect_slashes=False,
        responses=REFUSALS,
    )
    # The guard is what checks it; this writes it into the schema.
    add_answers(app, [Security(HTTPBearer(auto_error=False))] if token else [])
    add_pages(app, static)
    add_refusals(app, valid)
    app.add_middleware(Guard, token=token)
    return app
