"""`/api/docs`: the OpenAPI document as a page, without scripts and without a network."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, render_template

from blueprints.ui.browser import secure
from extensions import api

blueprint = Blueprint("docs", __name__, template_folder="templates")
blueprint.after_request(secure)

METHODS = ("get", "post", "patch", "delete")


@blueprint.get("/api/docs")
def page() -> str:
    """Show what the API takes and gives."""
    document = api.document()
    tags = {tag["name"]: tag.get("description", "") for tag in document["tags"]}
    operations = [
        {**operation, "path": path, "method": method.upper()}
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]
    return render_template(
        "docs/api.html",
        info=document["info"],
        tags=tags,
        operations=operations,
        schemas=document["components"]["schemas"],
        kind=kind,
        name_of=name_of,
        pretty=pretty,
    )


def pretty(example: Any) -> str:
    """Return an example as it is shown."""
    if isinstance(example, str):
        return example
    return orjson.dumps(example, option=orjson.OPT_INDENT_2).decode()


def name_of(schema: dict[str, Any]) -> str:
    """Return the name of the component that `schema` refers to, or an empty text."""
    return str(schema.get("$ref", "")).rsplit("/", maxsplit=1)[-1]


def kind(schema: dict[str, Any]) -> str:
    """Return in a few words what values `schema` takes."""
    if "enum" in schema:
        return " | ".join(f'"{word}"' for word in schema["enum"])
    kinds = schema.get("type", name_of(schema) or "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "format" in schema:
        text += f" ({schema['format']})"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"), ("maxLength", "length ≤"))
        if key in schema
    ]
    return ", ".join([text, *bounds])
