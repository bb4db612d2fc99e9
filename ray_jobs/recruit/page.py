"""The recruiter's page and the API's documentation, from files of the package: nothing comes from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

ASSETS = files("multitask") / "assets" / "recruit"
STATIC = {  # path -> file, media type
    "/": ("page.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/script.js": ("script.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def add_pages(app: FastAPI) -> None:
    """Adds the files of STATIC, and /docs, which lists what /openapi.json says; to be called after add_answers."""
    for path, (name, media_type) in STATIC.items():
        _add(app, path, (ASSETS / name).read_text(encoding="utf-8"), media_type)
    _add(app, "/docs", documentation(app.openapi()), "text/html")


def _add(app: FastAPI, path: str, text: str, media_type: str) -> None:
    from fastapi import Response

    async def page() -> Response:
        return Response(text, media_type=media_type)

    app.add_api_route(path, page, include_in_schema=False, response_model=None)


def documentation(schema: dict[str, Any]) -> str:
    """An OpenAPI schema as an HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("multitask", "assets/recruit"),
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
    return environment.get_template("docs.html").render(info=schema["info"], operations=operations)


def _bodies(schema: dict[str, Any], operation: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """The fields of an operation's request and of its answer, in HTML."""
    asked = operation.get("requestBody")
    return {
        "asked": _fields(schema, asked["content"]) if asked else [],
        "answered": _fields(schema, operation["responses"]["200"]["content"]),
    }


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
    return f"list of {{{', '.join(items['properties'])}}}" if "properties" in items else f"list of {items['type']}"


def _resolved(schema: dict[str, Any], some: dict[str, Any]) -> dict[str, Any]:
    name = some.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["components"]["schemas"][name] if name else some
    return found
