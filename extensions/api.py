"""The OpenAPI description, and answers to requests that went wrong as problem+json (RFC 9457)."""

from __future__ import annotations

import http
from typing import Any, NoReturn

import orjson
from flask import Flask, Request, Response, current_app, request
from flask.json.provider import JSONProvider
from flask_smorest import Api, Blueprint
from marshmallow import RAISE, Schema, ValidationError, fields
from webargs import core
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, UnsupportedMediaType

from .openapi import PROBLEM, DescribingPlugin, Errors, example_problem, problem_document

DESCRIPTION = """\
Whatever is written here is committed in the vessel's database before it is answered, and reaches the broker
by itself; `Sync-Message-Id` names the message that carries it.

JSON with camelCase keys; times in UTC, ISO 8601, milliseconds. Lists come in pages: `next` of one is the
`cursor` of the following, and rows that come and go meanwhile are neither skipped nor repeated. Errors are
`application/problem+json` (RFC 9457), with what is wrong by field in `errors`.
"""
#: What is read of a body that is too large, so that the client is there to read the answer.
DRAIN_LIMIT = 64 * 1024 * 1024


class ProblemError(HTTPException):
    """A request that can't be served, with what to say about it."""

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


class OrjsonProvider(JSONProvider):
    """JSON by orjson: strict about NaN and lone surrogates, and fast."""

    def dumps(self, obj: Any, **_kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = orjson.dumps(self._prepare_response_obj(args, kwargs))
        return Response(body, mimetype="application/json")


class Parser(FlaskParser):
    """Reads requests strictly: JSON by its content type, no unknown key anywhere."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}

    def _raw_load_json(self, req: Request) -> Any:
        body = req.get_data(cache=True)
        if not body:
            return core.missing
        # Of a chunked body Werkzeug returns what fits, and says nothing of the rest.
        if req.environ.get("wsgi.input_terminated") and req.environ["wsgi.input"].read(1):
            raise RequestEntityTooLarge
        if not req.is_json:
            raise UnsupportedMediaType("The body is expected as application/json.")
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ProblemError(400, f"The body is not valid JSON: {error}") from error

    def handle_error(self, error: ValidationError, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise InvalidError(field_errors(error)) from error


def field_errors(error: ValidationError) -> Errors:
    """Return what marshmallow found as one list of messages a field, nested fields dotted."""
    found: Errors = {}

    def collect(messages: Any, path: str) -> None:
        if isinstance(messages, dict):
            for key, value in messages.items():
                collect(value, path if key in {"json", "query"} else f"{path}.{key}".lstrip("."))
        else:
            found.setdefault(path or "_schema", []).extend(map(str, messages))

    collect(error.messages, "")
    return found


class ProblemSchema(Schema):
    """A problem as RFC 9457 has it, with the errors of each field."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    instance = fields.String()
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))


def problem(
    status: int, detail: str, *, errors: Errors | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return the answer to a request that can't be served."""
    document = problem_document(status, detail, request.path, errors)
    response = Response(orjson.dumps(document), status, content_type=PROBLEM)
    response.headers.update(headers or {})
    return response


def sentence(error: Exception) -> str:
    """Return the text of an error as a sentence for `detail`."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


class ProblemApi(Api):
    """flask-smorest's API with problems instead of its own errors."""

    ERROR_SCHEMA = ProblemSchema

    def init_app(self, app: Flask, **kwargs: Any) -> None:
        app.json = OrjsonProvider(app)
        app.config.setdefault("API_TITLE", "Arus vessel")
        app.config.setdefault("API_VERSION", "1")
        app.config.setdefault("OPENAPI_VERSION", "3.1.0")
        app.config.setdefault("OPENAPI_URL_PREFIX", "/api")
        app.config.setdefault(
            "API_SPEC_OPTIONS",
            {
                "externalDocs": {"url": "/api/docs", "description": "The same for people"},
                "info": {
                    "description": DESCRIPTION,
                    "license": {"name": "MIT", "identifier": "MIT"},
                },
            },
        )
        spec = {
            "marshmallow_plugin": DescribingPlugin(ProblemSchema),
            **kwargs.pop("spec_kwargs", {}),
        }
        super().init_app(app, spec_kwargs=spec, **kwargs)

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document, with the address under which this request has found it."""
        document: dict[str, Any] = self.spec.to_dict()
        return {**document, "servers": [{"url": request.script_root or "/"}]}

    def _openapi_json(self) -> Response:
        return Response(orjson.dumps(self.document()), content_type="application/json")

    def _register_responses(self) -> None:
        # flask-smorest's own say application/json, which problems are not.
        known = [status for status in http.HTTPStatus if status >= http.HTTPStatus.BAD_REQUEST]
        for status in known:
            self._register_problem(status.name, status, status.phrase)
        self._register_problem(
            self.DEFAULT_ERROR_RESPONSE_NAME, 503, "What else can go wrong: the status says what."
        )

    def _register_problem(self, name: str, status: int, description: str) -> None:
        content = {"schema": self.ERROR_SCHEMA, "example": example_problem(status)}
        response = {"description": description, "content": {PROBLEM: content}}
        self.spec.components.response(name, response, lazy=True)

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Return the problem that says what `error` does."""
        status = error.code or 500
        if isinstance(error, RequestEntityTooLarge):
            _drain()
            detail = f"The body is larger than {current_app.config['MAX_CONTENT_LENGTH']} bytes."
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
    """Read what is still being sent: closing before would reset the connection, answer and all."""
    stream = request.environ["wsgi.input"]
    left = DRAIN_LIMIT
    if not request.environ.get("wsgi.input_terminated"):
        left = min(left, request.content_length or 0)
    while left > 0 and (chunk := stream.read(min(left, 65_536))):
        left -= len(chunk)


Blueprint.ARGUMENTS_PARSER = Parser()
api = ProblemApi()
