"""docs/asyncapi.yaml: valid, and it says what docs/protocol.md and the product say."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from tests.support.gunicorn_app import ROOT
from tools import asyncapi

_PREFIX = "fleet/{vesselId}/sync/"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The document."""
    return asyncapi.load(ROOT / "docs" / "asyncapi.yaml")


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert list(asyncapi.problems(document)) == []


@pytest.mark.parametrize(
    "path",
    [
        ("channels", "crew", "adress"),
        ("operations", "publishCrew", "actoin"),
        ("components", "schemas", "Row", "type"),
    ],
)
def test_a_mistake_in_it_is_found(document: dict[str, Any], path: tuple[str, ...]) -> None:
    broken = copy.deepcopy(document)
    node = broken
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "no such thing"
    assert list(asyncapi.problems(broken))


def test_an_example_that_breaks_its_schema_is_found(document: dict[str, Any]) -> None:
    broken = copy.deepcopy(document)
    message = broken["components"]["messages"]["watermark"]
    message["examples"][0]["payload"]["audit"]["equal"] = "yes"
    assert list(asyncapi.problems(broken))


def test_its_topics_qos_and_retain_are_those_of_the_protocols_table(
    document: dict[str, Any],
) -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    table = re.findall(r"^\| `([^`]+)` \| [^|]+ \| (\d) \| (yes|no) \|", page, re.MULTILINE)
    wanted = {
        re.sub(r"<.*>", "{}", topic): (int(qos), retained == "yes")
        for topic, qos, retained in table
    }
    found = {}
    for operation in document["operations"].values():
        channel = document["channels"][operation["channel"]["$ref"].rpartition("/")[2]]
        bindings = operation["bindings"]
        if "$ref" in bindings:
            name = bindings["$ref"].rpartition("/")[2]
            bindings = document["components"]["operationBindings"][name]
        topic = re.sub(r"\{.*\}", "{}", channel["address"].removeprefix(_PREFIX))
        found[topic] = (bindings["mqtt"]["qos"], bindings["mqtt"]["retain"])
    assert found == wanted
