"""Parts of the OpenAPI document that are generated for each operation: its id, its problems, an example."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema, fields

from arus.web.operations import ApiOperation
from arus.web.problems import PROBLEM, problem_document
from arus.web.schemas import CommaSeparated

WRITES = frozenset({"post", "put", "patch", "delete"})
#: Errors of a request that are found before its operation is called.
_FOREIGN = "The request was sent by a page of another site."
_OF_BODIES = {
    "400": "The body is not valid JSON.",
    "413": "The body is too large.",
    "415": "The body is not sent as application/json.",
}
_NOT_FOUND = "There is nothing with this id."


def example_problem(status: int, detail: str | None = None) -> dict[str, Any]:
    """Return an example of a problem document."""
    known = http.HTTPStatus(status)
    detail, errors = detail or known.description or known.phrase, None
    if status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
        detail = "The request has fields that are not valid; see errors."
        errors = {"reason": ["Missing data for required field."]}
    return problem_document(status, detail, "/api/work-orders", errors)


class DescribingPlugin(MarshmallowPlugin):
    """Completes each operation before its schemas are replaced by references.

    A schema class may have an `example`; in a request, the example contains only the writable fields.

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


def operation_document(operation: ApiOperation, problems: Mapping[int, str]) -> dict[str, Any]:
    """Return the OpenAPI description of an operation of a plain Flask blueprint.

    :param problems: error responses in addition to those it declares, by status.
    """
    answer: dict[str, Any] = {
        "description": operation.success,
        "content": {"application/json": {"schema": operation.answer}},
    }
    if operation.headers:
        answer["headers"] = dict(operation.headers)
    responses: dict[str, Any] = {str(operation.status): answer}
    for status, description in {**operation.problems, **problems}.items():
        responses[str(status)] = {"description": description}
    document: dict[str, Any] = {"summary": operation.summary, "tags": [operation.tag]}
    if operation.description:
        document["description"] = operation.description
    if operation.query is not None:
        document["parameters"] = [{"in": "query", "schema": operation.query}]
    if operation.body is not None:
        content = {"application/json": {"schema": operation.body}}
        document["requestBody"] = {"required": True, "content": content}
    if operation.query is not None or operation.body is not None:
        responses["422"] = http.HTTPStatus(422).name
    return {**document, "responses": responses}


def comma_separated(
    _converter: OpenAPIConverter, field: fields.Field[Any], **_kwargs: Any
) -> dict[str, Any]:
    """Return the style of a comma-separated list in a query; an apispec attribute function."""
    return {"explode": False, "style": "form"} if isinstance(field, CommaSeparated) else {}


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
