"""Digests: the canonical form is that of RFC 8785, and a set's digest knows nothing of order or history."""

from __future__ import annotations

import hashlib
import json
import math
import random
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from arus.protocol.digests import (
    BUCKETS,
    SetDigest,
    bucket_of,
    canonical,
    differing,
    entity_digest,
    row_hash,
    row_token,
)

EXACT = 2**53 - 1
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-EXACT, EXACT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1, 1)
    | st.floats(-1e16, 1e16)
    | st.text()
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=15,
)
names = st.text("abcdefghijklmnopqrstuvwxyzABC_09 ", min_size=1, max_size=10)
rows = st.dictionaries(st.text(max_size=8), st.tuples(st.integers(1, 99), st.text(max_size=4)))


@given(documents | st.dictionaries(names, scalars))
def test_the_canonical_form_is_that_of_the_reference(document: Any) -> None:
    assert canonical(document) == rfc8785.dumps(document)


@given(documents)
def test_it_is_the_same_after_a_trip_through_json(document: Any) -> None:
    there_and_back = json.loads(json.dumps(document))
    assert canonical(there_and_back) == canonical(document)


def test_the_examples_of_the_rfc() -> None:
    document = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    assert canonical(document).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    in_order = json.loads(canonical(dict.fromkeys(keys, 0)))
    assert list(in_order) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_numbers_are_what_javascript_reads() -> None:
    assert canonical({"hours": 5.0}) == canonical({"hours": 5}) == b'{"hours":5}'
    assert canonical(-0.0) == b"0"
    assert canonical(2**53 + 1) == canonical(2**53) == b"9007199254740992"
    assert canonical({"x": [10**21]}) == b'{"x":[1e+21]}'


@pytest.mark.parametrize("data", [math.nan, math.inf, {"a": [-math.inf]}, "\ud800", 10**400])
def test_what_has_no_canonical_form_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        canonical(data)


def test_the_digests_are_those_of_the_protocol() -> None:
    content = row_hash({"b": 1, "a": "x"})
    assert content == hashlib.sha256(b'{"a":"x","b":1}').hexdigest()
    token = hashlib.sha256(f"row-1\n7\n{content}".encode()).digest()[:8]
    assert row_token("row-1", 7, content) == int.from_bytes(token, "big")
    bucket = hashlib.sha256(b"row-1").digest()[0] >> 2
    assert bucket_of("row-1") == bucket
    one = SetDigest()
    one.add("row-1", 7, content)
    expected = ["0" * 16] * BUCKETS
    expected[bucket] = token.hex()
    assert one.buckets == expected
    assert one.digest == hashlib.sha256("".join(expected).encode()).hexdigest()
    assert SetDigest().digest == entity_digest(["0" * 16] * BUCKETS)


@given(rows, rows, st.randoms(use_true_random=False))
def test_order_and_history_leave_no_trace(
    kept: dict[str, tuple[int, str]], gone: dict[str, tuple[int, str]], chance: random.Random
) -> None:
    plain = SetDigest()
    for row_id, (version, content) in kept.items():
        plain.add(row_id, version, content)
    steps = [("add", row) for row in kept.items()] + [("add", row) for row in gone.items()]
    chance.shuffle(steps)
    steps += [("remove", row) for row in gone.items()]
    other = SetDigest()
    for step, (row_id, (version, content)) in steps:
        getattr(other, step)(row_id, version, content)
    assert (other.count, other.buckets, other.digest) == (plain.count, plain.buckets, plain.digest)
    assert differing(plain.buckets, other.buckets) == []


@given(rows, st.text(max_size=8), st.integers(1, 99), st.text(max_size=4))
def test_one_row_more_is_seen_in_its_bucket(
    there: dict[str, tuple[int, str]], row_id: str, version: int, content: str
) -> None:
    digest = SetDigest()
    for known, (known_version, known_content) in there.items():
        digest.add(known, known_version, known_content)
    before = digest.copy()
    digest.add(row_id, version, content)
    assert differing(before.buckets, digest.buckets) == [bucket_of(row_id)]
    assert digest.count == before.count + 1
    digest.remove(row_id, version, content)
    assert digest.buckets == before.buckets
