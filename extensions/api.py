"""The OpenAPI document, and error responses as problem+json (RFC 9457)."""

from __future__ import annotations

import http
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import orjson
from apispec import APISpec
from flask import Flask, Request, Response, request
from flask.json.provider import JSONProvider
from flask_smorest import Api, Blueprint
from marshmallow import RAISE, ValidationError
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from arus.web.arguments import read_json
from arus.web.operations import ApiOperation
from arus.web.problems import (
    PROBLEM,
    Errors,
    InvalidError,
    ProblemError,
    field_errors,
    problem,
    problem_of,
)
from arus.web.schemas import ProblemSchema

from .openapi import DescribingPlugin, comma_separated, example_problem, operation_document

__all__ = [
    "Errors",
    "InvalidError",
    "ProblemApi",
    "ProblemError",
    "api",
    "field_errors",
    "problem",
]

DESCRIPTION = """\
Each write is committed in the vessel's database before it is answered, and is then sent to the broker
automatically; `Sync-Message-Id` is the id of the message that carries it.

JSON with camelCase keys; times in UTC, ISO 8601, with milliseconds. Lists are paged: pass `next` of a page as the
`cursor` of the following one; rows added or deleted meanwhile cause no skipped or repeated rows. A filter that is
repeated stands for either value. Searches and filters ignore case and Unicode form. Errors are
`application/problem+json` (RFC 9457), with the messages for each field in `errors`.
"""


class OrjsonProvider(JSONProvider):
    """JSON with orjson: fast, and strict about NaN and lone surrogates."""

    def dumps(self, obj: Any, **_kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = orjson.dumps(self._prepare_response_obj(args, kwargs))
        return Response(body, mimetype="application/json")


class Parser(FlaskParser):
    """Strict parsing of requests: JSON only with its content type, and no unknown keys."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}

    def _raw_load_json(self, req: Request) -> Any:
        return read_json(req)

    def handle_error(self, error: ValidationError, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise InvalidError(field_errors(error)) from error


class ProblemApi(Api):
    """flask-smorest's API with problems instead of its own errors.

    Operations are described when the document is first read: that takes longer than the rest of an application's
    start, and most processes, such as commands, never need it.
    """

    ERROR_SCHEMA = ProblemSchema

    def __init__(self) -> None:
        self._spec: APISpec | None = None
        self._undescribed: deque[Callable[[APISpec], None]] = deque()
        self._describing = threading.Lock()
        super().__init__()

    @property
    def spec(self) -> APISpec | None:
        """The document, complete."""
        with self._describing:
            while self._spec is not None and self._undescribed:
                self._undescribed.popleft()(self._spec)
        return self._spec

    @spec.setter
    def spec(self, spec: APISpec | None) -> None:
        self._spec = spec
        self._undescribed.clear()

    def register_blueprint(
        self, blp: Blueprint, *, parameters: list[Any] | None = None, **options: Any
    ) -> None:
        """Register a blueprint, to be described in the document."""
        app = self._app
        name = options.get("name", blp.name)
        app.extensions["flask-smorest"]["blp_name_to_api"][name] = self
        app.register_blueprint(blp, **options)

        def describe(spec: APISpec) -> None:
            blp.register_views_in_doc(self, app, spec, name=name, parameters=parameters)
            spec.tag({"name": name, "description": blp.description})

        self._undescribed.append(describe)

    def amend(self, describe: Callable[[APISpec], None]) -> None:
        """Change the document once everything registered so far is described in it."""
        self._undescribed.append(describe)

    def init_app(self, app: Flask, **kwargs: Any) -> None:
        app.json = OrjsonProvider(app)
        app.config.setdefault("API_TITLE", "Arus vessel")
        app.config.setdefault("API_VERSION", "1")
        app.config.setdefault("OPENAPI_VERSION", "3.1.0")
        app.config.setdefault("OPENAPI_URL_PREFIX", "/api")
        app.config.setdefault(
            "API_SPEC_OPTIONS",
            {
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
        self.amend(self._describe_problems)
        self.ma_plugin.converter.add_parameter_attribute_function(comma_separated)

    def describe(
        self,
        app: Flask,
        blueprint: str,
        operations: Iterable[ApiOperation],
        *,
        tags: Mapping[str, str],
        problems: Mapping[str, Mapping[int, str]],
    ) -> None:
        """Describe the operations of a plain Flask blueprint that is registered with `app` in the document.

        :param blueprint: its name.
        :param tags: the groups of operations: name and description.
        :param problems: what else they may answer here, by name and status.
        """

        def describe(spec: APISpec) -> None:
            for name, description in tags.items():
                spec.tag({"name": name, "description": description})
            for operation in operations:
                document = operation_document(operation, problems.get(operation.name, {}))
                document["responses"]["default"] = self.DEFAULT_ERROR_RESPONSE_NAME
                rule = next(app.url_map.iter_rules(f"{blueprint}.{operation.name}"))
                spec.path(rule=rule, operations={operation.method.lower(): document})

        self._undescribed.append(describe)

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document, with the address under which this request has found it."""
        spec = self.spec
        assert spec is not None
        document: dict[str, Any] = spec.to_dict()
        pages = {"url": f"{request.script_root}/api/docs", "description": "API reference"}
        return {**document, "externalDocs": pages, "servers": [{"url": request.script_root or "/"}]}

    def _openapi_json(self) -> Response:
        return Response(orjson.dumps(self.document()), content_type="application/json")

    def _register_responses(self) -> None:
        """Leave out flask-smorest's own: they have the content type application/json, not problem+json."""

    def _describe_problems(self, spec: APISpec) -> None:
        known = [status for status in http.HTTPStatus if status >= http.HTTPStatus.BAD_REQUEST]
        for status in known:
            self._describe_problem(spec, status.name, status, status.phrase)
        self._describe_problem(
            spec, self.DEFAULT_ERROR_RESPONSE_NAME, 503, "Any other error; see the status."
        )

    def _describe_problem(self, spec: APISpec, name: str, status: int, description: str) -> None:
        content = {"schema": self.ERROR_SCHEMA, "example": example_problem(status)}
        response = {"description": description, "content": {PROBLEM: content}}
        spec.components.response(name, response, lazy=True)

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Return the problem response for `error`."""
        return problem_of(error)


Blueprint.ARGUMENTS_PARSER = Parser()
api = ProblemApi()
