"""The security schemes of the OpenAPI document, and what each operation needs, from the rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from apispec import APISpec
from flask import Flask
from werkzeug.routing import Rule as Route

from arus.web.problems import PROBLEM
from extensions import api
from extensions.openapi import example_problem

from .rights import SCOPES
from .rules import Rule, rule_for

_SCHEMES: dict[str, dict[str, str]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A program's token, made with `flask token add` or on the page Tokens.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "session",
        "description": "The cookie of a person who has logged in at `/login`.",
    },
}
_PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
_ANSWERS = {
    "401": "Nobody has logged in, and no valid token was sent.",
    "403": "The person or the token may not do this.",
}


def describe_access(app: Flask) -> None:
    """Add who may do what to the document of an application; call it after all blueprints are registered."""
    needs_login = app.config["ACCESS"] == "login"

    def describe(spec: APISpec) -> None:
        for name, scheme in _SCHEMES.items():
            spec.components.security_scheme(name, scheme)
        for path, method, rule in _operations(app):
            operation = spec._paths.get(path, {}).get(method)  # apispec offers no other way
            if operation is not None and rule:
                _describe(operation, rule, needs_login=needs_login)

    api.amend(describe)


def _describe(operation: dict[str, Any], rule: Rule, *, needs_login: bool) -> None:
    scopes = sorted(scope for scope, rights in SCOPES.items() if rights & rule)
    security: list[dict[str, list[str]]] = [{"token": scopes}] if scopes else []
    security.append({"session": []})
    if not needs_login:
        security.append({})  # it can be left out
    operation["security"] = security
    if not needs_login:
        return
    responses = operation["responses"]
    for status, text in _ANSWERS.items():
        content = {"schema": _PROBLEM_SCHEMA, "example": example_problem(int(status), text)}
        responses.setdefault(status, {"description": text, "content": {PROBLEM: content}})
    operation["responses"] = {status: responses[status] for status in sorted(responses, key=str)}


def _operations(app: Flask) -> Iterator[tuple[str, str, Rule]]:
    for route in app.url_map.iter_rules():
        for method in route.methods or ():
            found = rule_for(route.endpoint, method, {})
            if found is not None:
                yield _path_of(route), method.lower(), found


def _path_of(route: Route) -> str:
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", route.rule)
