"""Offline validation of AsyncAPI documents, and of messages against such a document.

`schema-3.0.0.json` is the AsyncAPI Initiative's schema of AsyncAPI 3.0.0, unchanged, under the Apache License 2.0
(LICENSE, NOTICE).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.jsonschema import DRAFT7

_SCHEMA = Path(__file__).with_name("schema-3.0.0.json")
_DOCUMENT = "urn:asyncapi-document"


@cache
def _schema() -> Any:
    return json.loads(_SCHEMA.read_text())


def load(path: Path) -> dict[str, Any]:
    """Load a YAML document."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def problems(document: dict[str, Any]) -> Iterator[str]:
    """Yield the errors of a document, one line each."""
    errors = sorted(Draft7Validator(_schema()).iter_errors(document), key=lambda e: list(e.path))
    for error in errors:
        worst = best_match([error])
        yield f"{'/'.join(map(str, worst.absolute_path))}: {worst.message[:300]}"
    if errors:
        return
    broken = [ref for ref in _references(document) if _find(document, ref) is None]
    if broken:
        yield from (f"the reference {ref} leads nowhere" for ref in broken)
        return
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        yield from (
            f"schema {name}: {error.message[:300]}"
            for error in Draft7Validator(Draft7Validator.META_SCHEMA).iter_errors(schema)
        )
    for name, message in document.get("components", {}).get("messages", {}).items():
        for example in message.get("examples", ()):
            for error in payload_validator(document, name).iter_errors(example["payload"]):
                yield f"example of message {name}: {error.message[:300]}"


def payload_validator(document: dict[str, Any], message: str) -> Draft7Validator:
    """Return a validator for the payloads of one of the document's messages."""
    resource = DRAFT7.create_resource(document)
    return Draft7Validator(
        {"$ref": f"{_DOCUMENT}#/components/messages/{message}/payload"},
        registry=Registry().with_resource(_DOCUMENT, resource),
    )


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _find(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node.get(part) if isinstance(node, dict) else None
    return node
