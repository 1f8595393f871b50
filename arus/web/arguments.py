"""Strict parsing of requests: JSON only with its content type, and no unknown keys."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Request
from marshmallow import Schema, ValidationError, fields, missing
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from .problems import InvalidError, ProblemError, field_errors


def read_json(req: Request, *, untyped: bool = False) -> Any:
    """Return the JSON of a request's body; `marshmallow.missing` if the body is empty.

    :param untyped: whether to accept a body without a Content-Type as JSON.
    :raises ProblemError: the body is not valid JSON.
    :raises UnsupportedMediaType: the Content-Type is not JSON.
    :raises RequestEntityTooLarge: the body is larger than the application accepts.
    """
    body = req.get_data(cache=True)
    if not body:
        return missing
    # Werkzeug truncates a chunked body that is too large, without an error.
    if req.environ.get("wsgi.input_terminated") and req.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
    if not (req.is_json or (untyped and req.content_type is None)):
        raise UnsupportedMediaType("The body is expected as application/json.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProblemError(400, f"The body is not valid JSON: {error}") from error


def load_body(schema: Schema, req: Request) -> Any:
    """Load a request's body with a schema.

    :raises InvalidError: fields are not valid.
    """
    document = read_json(req, untyped=True)
    return _load(schema, {} if document is missing else document)


def load_query(schema: Schema, req: Request) -> dict[str, Any]:
    """Load a request's query with a schema; a parameter that is a list collects all its occurrences.

    :raises InvalidError: parameters are not valid.
    """
    given: dict[str, Any] = req.args.to_dict()
    for name, field in schema.load_fields.items():
        key = field.data_key or name
        if key in given and isinstance(field, fields.List):
            given[key] = req.args.getlist(key)
    loaded: dict[str, Any] = _load(schema, given)
    return loaded


def _load(schema: Schema, document: Any) -> Any:
    try:
        return schema.load(document)
    except ValidationError as error:
        raise InvalidError(field_errors(error)) from error
