"""The protocol's document: its worked examples are what the code computes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from arus.protocol.catchups import chained, link_of
from arus.protocol.digests import SetDigest, bucket_of, canonical, row_hash, row_token
from tests.support.gunicorn_app import ROOT

_DOCUMENT = (ROOT / "docs" / "protocol.md").read_text()


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    """The test vectors of the document."""
    found = re.search(r"^```json vectors\n(.*?)^```", _DOCUMENT, re.DOTALL | re.MULTILINE)
    assert found
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


def test_the_rows_of_the_document_have_its_canonical_form_hash_token_and_bucket(
    vectors: dict[str, Any],
) -> None:
    assert vectors["rows"]
    for row in vectors["rows"]:
        assert canonical(row["data"]).decode() == row["canonical"]
        assert row_hash(row["data"]) == row["rowHash"]
        token = row_token(row["rowId"], row["version"], row["rowHash"])
        assert f"{token:016x}" == row["token"]
        assert bucket_of(row["rowId"]) == row["bucket"]


def test_the_entities_of_the_document_have_its_bucket_digests_and_digest(
    vectors: dict[str, Any],
) -> None:
    assert SetDigest().digest == vectors["emptyEntity"]
    for entity, wanted in vectors["entities"].items():
        digest = SetDigest()
        for row in vectors["rows"]:
            if row["entity"] == entity:
                digest.add(row["rowId"], row["version"], row["rowHash"])
        assert digest.count == wanted["count"]
        assert digest.digest == wanted["digest"]
        for number, bucket in enumerate(digest.buckets):
            assert bucket == wanted["buckets"].get(str(number), "0" * 16)


def test_the_catch_up_of_the_document_has_its_digest_after_each_item(
    vectors: dict[str, Any],
) -> None:
    digest = ""
    for item in vectors["chain"]:
        link = link_of(item["entity"], item["rowId"], item["version"], item["operation"])
        digest = chained(digest, link)
        assert digest == item["digest"]


def test_each_example_in_the_document_is_json() -> None:
    examples = re.findall(r"^```json\n(.*?)^```", _DOCUMENT, re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        json.loads(example)
