"""The pages of an HTTP service, from files of the package: nothing comes from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

ASSETS = files("multitask") / "assets"
STATIC = {  # path -> file, media type
    "/style.css": ("serving/style.css", "text/css"),
    "/icon.svg": ("serving/icon.svg", "image/svg+xml"),
}

PORT = "{PORT}"


def add_pages(app: FastAPI, static: Mapping[str, tuple[str, str]]) -> None:
    """Adds /docs, which lists what /openapi.json says, and its style; to be called after the API's own paths. static:
    further files, as in STATIC."""
    for path, (name, media_type) in {**STATIC, **static}.items():
        _add(app, path, (ASSETS / name).read_text(encoding="utf-8"), media_type)
    _add(app, "/docs", documentation(app.openapi(), "/" in static), "text/html")


def _add(app: FastAPI, path: str, text: str, media_type: str) -> None:
    """Adds a file; PORT in it is the port that the service listens at."""
    from fastapi import Request, Response

    async def page(request: Request) -> Response:
        listening = request.scope["server"][1] or 8000
        return Response(text.replace(PORT, str(listening)), media_type=media_type)

    page.__annotations__["request"] = Request  # FastAPI looks names up in this module, which is read without it

    app.add_api_route(path, page, include_in_schema=False, response_model=None)


def documentation(schema: dict[str, Any], page: bool) -> str:
    """An OpenAPI schema as an HTML page. page: whether the service has a page at / too."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("multitask", "assets/serving"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    operations = [
        {"method": method.upper(), "path": path, "says": operation["description"], **_bodies(schema, operation)}
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    facts = {"port": PORT, "info": schema["info"], "operations": operations, "example": _example(schema), "page": page}
    return environment.get_template("docs.html").render(**facts)


def _example(schema: dict[str, Any]) -> dict[str, str]:
    """The first request with a body, filled with the examples that its fields give."""
    path, asked = next((path, some["post"]["requestBody"]) for path, some in schema["paths"].items() if "post" in some)
    fields = _resolved(schema, asked["content"]["application/json"]["schema"])["properties"]
    return {
        "path": path,
        "body": json.dumps({name: some["examples"][0] for name, some in fields.items() if "examples" in some}),
    }


def _bodies(schema: dict[str, Any], operation: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """The fields of an operation's request and of its answer, in HTML."""
    asked = operation.get("requestBody")
    return {
        "asked": _fields(schema, asked["content"]) if asked else [],
        "answered": _fields(schema, operation["responses"]["200"]["content"]),
    }


def asked_fields(schema: dict[str, Any], path: str, method: str) -> list[str]:
    """The fields that a request's body may have; none where the path asks for no body."""
    asked = schema["paths"].get(path, {}).get(method.lower(), {}).get("requestBody")
    return [field["name"] for field in _fields(schema, asked["content"])] if asked else []


def _fields(schema: dict[str, Any], content: dict[str, Any]) -> list[dict[str, str]]:
    body = _resolved(schema, content["application/json"]["schema"])
    return [
        {
            "name": name,
            "kind": _kind(schema, some),
            "default": str(some.get("default", "")),
            "says": some.get("description", ""),
        }
        for name, some in body["properties"].items()
    ]


def _kind(schema: dict[str, Any], some: dict[str, Any]) -> str:
    """A property's type in words; of a list of objects, its fields."""
    if "enum" in some:
        return " or ".join(some["enum"])
    if "anyOf" in some:
        return " or ".join(_kind(schema, each) for each in some["anyOf"])
    if some.get("type") != "array":
        return str(some.get("type") or some.get("const", ""))
    items = _resolved(schema, some["items"])
    if "properties" in items:
        return f"list of {{{', '.join(items['properties'])}}}"
    inside = _kind(schema, items)
    return f"list of {inside}" if inside else "list"


def _resolved(schema: dict[str, Any], some: dict[str, Any]) -> dict[str, Any]:
    name = some.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["components"]["schemas"][name] if name else some
    return found
