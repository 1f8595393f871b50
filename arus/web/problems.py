"""Error responses as problem+json (RFC 9457)."""

from __future__ import annotations

import http
from typing import Any

import orjson
from flask import Response, current_app, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

PROBLEM = "application/problem+json"
#: Messages by field.
Errors = dict[str, list[str]]

#: Bytes read of a body that is too large, so that the client gets the response before the connection closes.
DRAIN_LIMIT = 64 * 1024 * 1024


class ProblemError(HTTPException):
    """A request that can't be served, with the problem to report."""

    def __init__(
        self,
        code: int,
        detail: str,
        *,
        errors: Errors | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.errors = errors
        self.extra_headers = headers or {}


class InvalidError(ProblemError):
    """Fields of the request are not valid."""

    def __init__(self, errors: Errors) -> None:
        super().__init__(
            422, "The request has fields that are not valid; see errors.", errors=errors
        )


def field_errors(error: ValidationError) -> Errors:
    """Return marshmallow's errors as one list of messages for each field; nested fields have dotted names."""
    found: Errors = {}

    def collect(messages: Any, path: str) -> None:
        if isinstance(messages, dict):
            for key, value in messages.items():
                collect(value, path if key in {"json", "query"} else f"{path}.{key}".lstrip("."))
        else:
            found.setdefault(path or "_schema", []).extend(map(str, messages))

    collect(error.messages, "")
    return found


def problem_document(
    status: int, detail: str, instance: str, errors: Errors | None = None
) -> dict[str, Any]:
    """Return a problem document (RFC 9457)."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
    }
    if errors:
        document["errors"] = errors
    return document


def problem(
    status: int, detail: str, *, errors: Errors | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return the response to a request that can't be served."""
    document = problem_document(status, detail, request.path, errors)
    response = Response(orjson.dumps(document), status, content_type=PROBLEM)
    response.headers.update(headers or {})
    return response


def sentence(error: Exception) -> str:
    """Return the text of an error as a sentence for `detail`."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def problem_of(error: HTTPException) -> Response:
    """Return the problem response for `error`."""
    if error.response is not None:
        return current_app.make_response(error.get_response())
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        _drain()
        detail = f"The body is larger than {request.max_content_length} bytes."
    else:
        detail = error.description or http.HTTPStatus(status).description
    headers = {
        name: value
        for name, value in error.get_headers(request.environ)
        if name.lower() not in {"content-type", "content-length"}
    }
    headers.update(getattr(error, "extra_headers", {}))
    return problem(status, detail, errors=getattr(error, "errors", None), headers=headers)


def _drain() -> None:
    """Read the rest of the body: closing earlier would reset the connection, and the response would be lost."""
    stream = request.environ["wsgi.input"]
    left = DRAIN_LIMIT
    if not request.environ.get("wsgi.input_terminated"):
        left = min(left, request.content_length or 0)
    while left > 0 and (chunk := stream.read(min(left, 65_536))):
        left -= len(chunk)
