"""The routes of every resource."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, request, url_for
from flask.views import MethodView
from flask_smorest import Blueprint

from extensions.database import Row

from .idempotency import HEADER, IdempotencyKey
from .resource import Resource, Written

IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "description": 'the `ETag` of the row as last read: `"<version>"`',
}
IDEMPOTENCY_KEY = {
    "in": "header",
    "name": HEADER,
    "schema": {"type": "string", "maxLength": 200},
    "description": "makes it safe to retry this request",
}

IF_NONE_MATCH = {
    "in": "header",
    "name": "If-None-Match",
    "schema": {"type": "string"},
    "description": "the `ETag` of the client's copy: 304 if that is the current version",
}
ETAG = {"schema": {"type": "string"}, "description": "the row's version, for `If-Match`"}
LOCATION = {"schema": {"type": "string"}, "description": "the URL of the row"}
SYNC_MESSAGE_ID = {
    "schema": {"type": "string"},
    "description": "the id of the message that sends the change ashore; absent if nothing is captured",
}
WRITTEN = {"ETag": ETAG, "Sync-Message-Id": SYNC_MESSAGE_ID}
CREATED = {
    **WRITTEN,
    "Location": LOCATION,
    "Idempotency-Replayed": {
        "schema": {"type": "string", "const": "true"},
        "description": "an earlier request with the same key has created the row",
    },
}
STALE = "The row's version is not the one in `If-Match`."
CONFLICT = "A row that it depends on was changed at the same time: try again."


def if_match() -> Callable[[int], bool] | None:
    """Return a function that checks a version against the request's `If-Match`, if it has one."""
    tags = request.if_match
    if "If-Match" not in request.headers:
        return None
    return lambda version: tags.contains(str(version))


def row_headers(written: Written[Any], location: str | None = None) -> dict[str, str]:
    """Return the headers of the response to a write."""
    headers = {"ETag": f'"{written.row.version}"'}
    if location:
        headers["Location"] = location
    if written.receipt:
        headers["Sync-Message-Id"] = written.receipt.message_id
    if written.replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


def answer(written: Written[Any], status: int = 200, location: str | None = None) -> Any:
    """Return the response to a write: the row's JSON from the log, or the row for the schema to serialise."""
    headers = row_headers(written, location)
    if written.receipt and written.receipt.data:
        response = Response(written.receipt.data, status, mimetype="application/json")
        # Behind the content type, which is looked up again and again: each look-up reads the headers before it.
        response.headers.extend(headers)
        return response
    return written.row, status, headers


def add_routes(blueprint: Blueprint, resource: Resource[Any]) -> None:
    """Add list, create, read, update and delete of `resource` to `blueprint`."""
    blueprint.add_url_rule("", "rows", _rows(blueprint, resource))
    blueprint.add_url_rule("/<row_id>", "row", _one_row(blueprint, resource))


def _rows(blueprint: Blueprint, resource: Resource[Any]) -> type[MethodView]:
    schema = resource.row_schema
    one = f"{blueprint.name}.row"

    class Rows(MethodView):
        @blueprint.arguments(resource.query_schema, location="query")
        @blueprint.response(200, resource.page_schema)
        def get(self, query: dict[str, Any]) -> dict[str, Any]:
            """List, newest first."""
            items, following = resource.list(**query)
            return {"items": items, "next": following}

        @blueprint.arguments(schema)
        @blueprint.response(201, schema, headers=CREATED)
        @blueprint.alt_response(409, description=CONFLICT)
        @blueprint.alt_response(
            410, description="The row that the key has created was deleted since."
        )
        @blueprint.doc(parameters=[IDEMPOTENCY_KEY])
        def post(self, data: dict[str, Any]) -> Any:
            """Create."""
            written = resource.create(data, IdempotencyKey.from_request(data))
            return answer(written, 201, url_for(one, row_id=written.row.id))

    return Rows


def _one_row(blueprint: Blueprint, resource: Resource[Any]) -> type[MethodView]:
    schema = resource.row_schema

    class OneRow(MethodView):
        @blueprint.response(200, schema, headers={"ETag": ETAG})
        @blueprint.alt_response(304, description="The client's copy is current.", success=True)
        @blueprint.doc(parameters=[IF_NONE_MATCH])
        def get(self, row_id: str) -> tuple[Row, int, dict[str, str]] | Response:
            """Read one."""
            row = resource.get(row_id)
            etag = {"ETag": f'"{row.version}"'}
            if request.if_none_match.contains_weak(str(row.version)):
                return Response(status=304, headers=etag)
            return row, 200, etag

        @blueprint.arguments(resource.patch_schema)
        @blueprint.response(200, schema, headers=WRITTEN)
        @blueprint.alt_response(409, description=CONFLICT)
        @blueprint.alt_response(412, description=STALE)
        @blueprint.doc(parameters=[IF_MATCH])
        def patch(self, data: dict[str, Any], row_id: str) -> Any:
            """Change some fields."""
            return answer(resource.update(row_id, data, if_match()))

        @blueprint.response(204, headers={"Sync-Message-Id": SYNC_MESSAGE_ID})
        @blueprint.alt_response(409, description="Other rows refer to it.")
        @blueprint.alt_response(412, description=STALE)
        @blueprint.doc(parameters=[IF_MATCH])
        def delete(self, row_id: str) -> Response:
            """Delete."""
            written = resource.delete(row_id, if_match())
            response = Response(status=204, headers=row_headers(written))
            # A deleted row has no version, and the empty response no content type.
            del response.headers["ETag"], response.headers["Content-Type"]
            return response

    return OneRow
