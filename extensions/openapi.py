"""What the OpenAPI document says of each operation by itself: its name, its problems, an example."""

from __future__ import annotations

import http
from typing import Any

from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

PROBLEM = "application/problem+json"
#: What is wrong, by field.
Errors = dict[str, list[str]]

WRITES = frozenset({"post", "put", "patch", "delete"})
#: What is wrong with a request before its operation is begun.
_FOREIGN = "A page of another site has made the browser send it."
_OF_BODIES = {
    "400": "The body is not valid JSON.",
    "413": "The body is too large.",
    "415": "The body is not sent as application/json.",
}
_NOT_FOUND = "There is nothing with this id."


def problem_document(
    status: int, detail: str, instance: str, errors: Errors | None = None
) -> dict[str, Any]:
    """Return a problem as RFC 9457 has it."""
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


def example_problem(status: int, detail: str | None = None) -> dict[str, Any]:
    """Return a problem document as a client may get it."""
    known = http.HTTPStatus(status)
    detail, errors = detail or known.description or known.phrase, None
    if status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
        detail = "The request has fields that are not valid; see errors."
        errors = {"reason": ["Missing data for required field."]}
    return problem_document(status, detail, "/api/work-orders", errors)


class DescribingPlugin(MarshmallowPlugin):
    """Completes each operation before its schemas become references.

    A schema class may have an `example`; a request's shows only what a client may send of it.

    :param problem: the schema of a problem document.
    """

    def __init__(self, problem: type[Schema]) -> None:
        super().__init__()
        self._problem = problem

    def operation_helper(
        self,
        path: str | None = None,
        operations: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Complete the operations of a path."""
        for method, operation in (operations or {}).items():
            operation["operationId"] = _name(method, path or "")
            self._add_problems(method, path or "", operation)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _add_example(content, sent=True)
            for response in operation.get("responses", {}).values():
                if isinstance(response, dict):
                    for content in response.get("content", {}).values():
                        _add_example(content, sent=False)
        super().operation_helper(path=path, operations=operations, **kwargs)

    def _add_problems(self, method: str, path: str, operation: dict[str, Any]) -> None:
        responses: dict[str, Any] = operation.setdefault("responses", {})
        told = {str(status) for status in responses}
        expected: dict[str, str] = {}
        if "{" in path:
            expected["404"] = _NOT_FOUND
        if method in WRITES:
            expected["403"] = _FOREIGN
        if "requestBody" in operation:
            expected |= _OF_BODIES
        for status, description in expected.items():
            if status not in told:
                responses[status] = {"description": description}
        for status, response in responses.items():
            if (
                isinstance(response, dict)
                and str(status).isdigit()
                and int(status) >= 400
                and "content" not in response
            ):
                example = example_problem(int(status), response.get("description"))
                response["content"] = {PROBLEM: {"schema": self._problem, "example": example}}
        operation["responses"] = {
            status: responses[status] for status in sorted(responses, key=str)
        }


def _name(method: str, path: str) -> str:
    """Return the operationId: `getWorkOrdersByRowId` of `GET /api/work-orders/{row_id}`."""
    words = [method]
    for part in path.removeprefix("/api").strip("/").split("/"):
        if part.startswith("{"):
            words.append("by")
        words += part.strip("{}").replace("-", "_").split("_")
    return words[0] + "".join(word[:1].upper() + word[1:] for word in words[1:])


def _add_example(content: dict[str, Any], *, sent: bool) -> None:
    schema = content.get("schema")
    if isinstance(schema, type) and issubclass(schema, Schema):
        schema = schema()
    example = getattr(schema, "example", None)
    if not isinstance(schema, Schema) or example is None or {"example", "examples"} & set(content):
        return
    if sent:
        names = {field.data_key or name for name, field in schema.load_fields.items()}
        example = {key: value for key, value in example.items() if key in names}
    content["example"] = example
