"""The OpenAPI document: valid, complete, with examples that are what they say; and the API does as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.gunicorn_app import GunicornApp, clean_environment

DIALECT = Draft202012Validator
METHODS = {"get", "post", "put", "patch", "delete"}
#: What the product serves that is no page of its UI.
SERVED = re.compile(r"/(api/|healthz|readyz|metrics)")
#: The document itself, and its page with the files of it.
UNDESCRIBED = {"/api/openapi.json", "/api/docs", "/api/docs/static/<path:filename>"}

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"])


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/api/openapi.json").get_json()
    return answer


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of each operation."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method, operation


def resolved(document: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    """What a reference refers to, or the thing itself."""
    while "$ref" in thing:
        found: Any = document
        for step in thing["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        thing = found
    return thing


def contents(
    document: dict[str, Any],
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where, media type and description of each body that is sent or answered."""
    for path, method, operation in operations(document):
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for name, body in bodies.items():
            for media_type, content in resolved(document, body).get("content", {}).items():
                yield f"{method} {path} {name}", media_type, content


def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["description"]
    assert document["servers"] == [{"url": "/"}]


def test_every_endpoint_is_in_it(app: Flask, document: dict[str, Any]) -> None:
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if SERVED.match(rule.rule) and rule.rule not in UNDESCRIBED
    }
    described = {(path, method) for path, method, _ in operations(document)}
    assert {(p, m) for p, m in served if m in METHODS} == described


def test_each_operation_says_what_it_does(document: dict[str, Any]) -> None:
    names = []
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for path, method, operation in operations(document):
        names.append(operation["operationId"])
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= tags
        assert "default" in operation["responses"]
        if method != "get":
            assert "403" in operation["responses"]
        if "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(operation["responses"])
        if "{" in path:
            assert "404" in operation["responses"]
    assert len(names) == len(set(names))


def test_every_body_has_an_example_of_its_schema(document: dict[str, Any]) -> None:
    seen = 0
    for where, media_type, content in contents(document):
        assert "example" in content, (where, media_type)
        # The document is the root, so that references within schemas find what they refer to.
        schema = {**document, "$ref": None, **content["schema"]}
        schema = {key: value for key, value in schema.items() if value is not None}
        errors = [
            f"{where}: {error.json_path}: {error.message}"
            for error in DIALECT(schema, format_checker=DIALECT.FORMAT_CHECKER).iter_errors(
                content["example"]
            )
        ]
        assert errors == []
        seen += 1
    assert seen > 150


def test_problems_are_problems(document: dict[str, Any]) -> None:
    for where, media_type, content in contents(document):
        status = where.split()[-1]
        if status == "default" or (status.isdigit() and status >= "400"):
            assert media_type == "application/problem+json", where
            assert content["schema"] == {"$ref": "#/components/schemas/Problem"}


def test_examples_of_requests_are_taken(
    client: FlaskClient, equipment_id: str, document: dict[str, Any]
) -> None:
    tried = 0
    for path, method, operation in operations(document):
        if method != "post" or "{" in path:
            continue
        content = operation["requestBody"]["content"]["application/json"]
        body = {
            **content["example"],
            **{key: None for key in ("assignedCrewId", "scheduleId", "workOrderId") if key in content["example"]},
            **({"equipmentId": equipment_id} if "equipmentId" in content["example"] else {}),
        }  # fmt: skip
        answer = client.post(path, json=body)
        assert answer.status_code in {201, 202}, (path, answer.text)
        tried += 1
    assert tried == 6


def test_its_page_is_under_the_policy(client: FlaskClient) -> None:
    page = client.get("/api/docs", headers={"Accept": "text/html"})
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "<script" not in page.text.replace("<script src=", "")
    assert "http://" not in re.sub(r"http://localhost|http://www.w3.org", "", page.text)


def test_behind_a_prefix_it_names_the_prefix(client: FlaskClient) -> None:
    answer = client.get("/api/openapi.json", environ_overrides={"SCRIPT_NAME": "/ship"})
    assert answer.get_json()["servers"] == [{"url": "/ship"}]
    assert answer.get_json()["externalDocs"]["url"] == "/ship/api/docs"


@pytest.mark.timeout(600)
def test_the_api_does_as_it_says(start_app: Callable[..., GunicornApp], tmp_path: Path) -> None:
    """Schemathesis asks whatever the document allows, and much that it doesn't."""
    server = start_app()
    checks = [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "unsupported_method",
    ]
    argv = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        f"{server.url}/api/openapi.json",
        *("--checks", ",".join(checks)),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "4"),
        *("--workers", "2"),
        *("--request-timeout", "30"),
        "--generation-deterministic",
        "--no-color",
    ]
    done = subprocess.run(
        argv, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=570
    )
    assert done.returncode == 0, done.stdout[-15_000:] + done.stderr[-3_000:]
