"""What a request for a catch-up may say, and what is said of one that is no good."""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import CatchupRequestError
from arus.requests import (
    ALL,
    DEFAULT_LIMIT,
    CatchupRequest,
    CatchupState,
    CatchupStatus,
    EntityStatus,
    RequestIntake,
    TokenBucket,
    parse,
    parse_since,
)

ENTITIES = ("work_orders", "alerts")
KEYS = "entity requestId vesselId since sinceSeq epoch cursor limit buckets mode entities other".split()
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


def test_an_entity_alone_asks_for_the_first_hundred_items_of_everything() -> None:
    assert parse({"entity": "alerts"}, ENTITIES) == CatchupRequest("alerts", limit=DEFAULT_LIMIT)


def test_a_null_limit_asks_for_all_items() -> None:
    assert parse({"entity": "all", "limit": None}, ENTITIES).limit is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("since", "2026-11-22T12:00:00.000Z", {"since_at": NOON_MS}),
        ("since", "2026-11-22T14:00:00+02:00", {"since_at": NOON_MS}),
        ("since", "2026-11-22T12:00", {"since_at": NOON_MS}),
        *(
            ("cursor", cursor, {"cursor": cursor})
            for cursor in ("log.e-1.s12", "snapshot.e-1.s0", 'snapshot.e-1.k"a row"')
        ),
        ("requestId", "r-1", {"request_id": "r-1"}),
        ("vesselId", "imo-1", {"vessel_id": "imo-1"}),
        ("limit", 7, {"limit": 7}),
        ("mode", "snapshot", {"wants_snapshot": True}),
        ("somethingNew", [1], {}),
    ],
)
def test_each_key_is_read(key: str, value: Any, expected: dict[str, Any]) -> None:
    assert parse({"entity": "alerts", key: value}, ENTITIES) == CatchupRequest("alerts", **expected)


def test_a_number_comes_with_its_epoch() -> None:
    request = parse({"entity": "all", "sinceSeq": 12, "epoch": "e-1"}, ENTITIES)
    assert (request.since_seq, request.since_epoch) == (12, "e-1")


def test_buckets_are_sorted_and_each_is_once() -> None:
    request = parse({"entity": "all", "mode": "snapshot", "buckets": [63, 0, 63]}, ENTITIES)
    assert request.buckets == (0, 63)


def test_a_digest_is_of_all() -> None:
    request = parse({"mode": "digest"}, ENTITIES)
    assert (request.entity, request.wants_digest) == (ALL, True)


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        ([], ["_schema"]),
        ("all", ["_schema"]),
        (None, ["_schema"]),
        ({}, ["entity"]),
        ({"entity": None}, ["entity"]),
        ({"entity": "invoices"}, ["entity"]),
        ({"entity": ["all"]}, ["entity"]),
        ({"entity": {"all": 1}}, ["entity"]),
        ({"entity": "all", "since": "yesterday"}, ["since"]),
        ({"entity": "all", "since": 1795334400000}, ["since"]),
        ({"entity": "all", "since": "9999-12-31T23:59:59-12:00"}, ["since"]),
        ({"entity": "all", "since": "0001-01-01T00:00:00Z"}, ["since"]),
        ({"entity": "all", "sinceSeq": 3}, ["epoch"]),
        ({"entity": "all", "epoch": "e"}, ["sinceSeq"]),
        ({"entity": "all", "sinceSeq": -1, "epoch": "e"}, ["sinceSeq"]),
        ({"entity": "all", "sinceSeq": 2**63, "epoch": "e"}, ["sinceSeq"]),
        ({"entity": "all", "sinceSeq": True, "epoch": "e"}, ["sinceSeq"]),
        ({"entity": "all", "sinceSeq": 1, "epoch": "e" * 37}, ["epoch"]),
        ({"entity": "all", "sinceSeq": 1, "epoch": "e\0"}, ["epoch"]),
        ({"entity": "all", "limit": 0}, ["limit"]),
        ({"entity": "all", "limit": "10"}, ["limit"]),
        ({"entity": "all", "limit": 1e9 + 1}, ["limit"]),
        ({"entity": "all", "mode": "everything"}, ["mode"]),
        ({"entity": "all", "mode": []}, ["mode"]),
        ({"entity": "alerts", "mode": "digest"}, ["entity"]),
        ({"entity": "all", "cursor": "log.e-1.s1"}, ["entity"]),
        ({"entity": "alerts", "cursor": "\0"}, ["cursor"]),
        ({"entity": "alerts", "cursor": "log.e-1.s" + "9" * 19}, ["cursor"]),
        ({"entity": "alerts", "cursor": "log.e-1.s\u0663"}, ["cursor"]),
        ({"entity": "alerts", "cursor": 'log.e-1.k"x"'}, ["cursor"]),
        ({"entity": "alerts", "cursor": "snapshot.e-1.kx"}, ["cursor"]),
        ({"entity": "alerts", "cursor": 'snapshot.e-1.k"\\u0000"'}, ["cursor"]),
        ({"entity": "alerts", "cursor": 'snapshot.e-1.k"\\ud800"'}, ["cursor"]),
        ({"entity": "alerts", "cursor": 'snapshot.e-1.k"' + "x" * 1001 + '"'}, ["cursor"]),
        ({"entity": "alerts", "cursor": "log.e-1.s1", "since": "2026-11-22"}, ["cursor"]),
        ({"entity": "alerts", "buckets": [1]}, ["buckets"]),
        ({"entity": "alerts", "mode": "snapshot", "buckets": []}, ["buckets"]),
        ({"entity": "alerts", "mode": "snapshot", "buckets": [64]}, ["buckets"]),
        ({"entity": "alerts", "mode": "snapshot", "buckets": ["1"]}, ["buckets"]),
        ({"entity": "alerts", "mode": "snapshot", "since": "2026-11-22"}, ["since"]),
        ({"entity": "all", "requestId": ""}, ["requestId"]),
        ({"entity": "all", "requestId": "r" * 65}, ["requestId"]),
        ({"entity": "all", "requestId": "a b"}, ["requestId"]),
        ({"entity": "all", "vesselId": 9}, ["vesselId"]),
    ],
)
def test_what_is_wrong_is_said_of_its_key(document: Any, wrong: list[str]) -> None:
    with pytest.raises(CatchupRequestError) as caught:
        parse(document, ENTITIES)
    assert list(caught.value.errors) == wrong
    assert "\n" not in str(caught.value)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=80)
    | st.sampled_from(["all", "alerts", "snapshot", "digest", "2026-11-22T12:00Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(values | st.dictionaries(st.sampled_from(KEYS) | st.text(), values, max_size=8))
def test_whatever_comes_is_a_request_or_refused(document: Any) -> None:
    said: dict[str, list[str]] | None = None
    try:
        request = parse(document, ENTITIES)
    except CatchupRequestError as error:
        said = error.errors
    else:
        assert request.entity in {ALL, *ENTITIES}
        assert sum(v is not None for v in (request.since_at, request.since_seq, request.cursor)) < 2
    assert said is None or (said and all(said.values()))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("30m", "2026-11-22T11:30:00+00:00"),
        ("2h", "2026-11-22T10:00:00+00:00"),
        ("3d", "2026-11-19T12:00:00+00:00"),
        ("1w", "2026-11-15T12:00:00+00:00"),
        ("2 H", "2026-11-22T10:00:00+00:00"),
        ("9999w", "1970-01-01T00:00:00+00:00"),
        ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ("2026-11-20T10:00+02:00", "2026-11-20T08:00:00+00:00"),
        ("2026-11-20 10:00:00", "2026-11-20T10:00:00+00:00"),
    ],
)
def test_a_person_says_a_time_or_how_long_ago(given: str, expected: str) -> None:
    assert parse_since(given, NOON).isoformat() == expected


@pytest.mark.parametrize("given", ["", "2", "h", "2y", "-2h", "2.5h", "yesterday", "2h ago"])
def test_another_word_for_a_time_is_not_understood(given: str) -> None:
    with pytest.raises(ValueError, match="neither a time"):
        parse_since(given, NOON)


# -- over MQTT ------------------------------------------------------------------------------------


def test_a_bucket_lets_a_burst_pass_and_then_a_steady_flow() -> None:
    now = itertools.count(0, 0.5)
    bucket = TokenBucket(3, 1, clock=lambda: next(now))
    assert [bucket.take() for _ in range(9)] == [True] * 5 + [False, True, False, True]


def intake(**options: Any) -> RequestIntake:
    return RequestIntake(ENTITIES, "ship-1", **{"clock": lambda: 0.0, **options})


def test_a_request_over_mqtt_is_read() -> None:
    taken = intake().take(b'{"requestId":"r1","entity":"all","limit":null,"vesselId":"ship-1"}')
    assert taken == CatchupRequest("all", request_id="r1", vessel_id="ship-1", limit=None)


def test_a_request_to_another_vessel_is_passed_over() -> None:
    it = intake()
    assert it.take(b'{"entity":"all","vesselId":"ship-2"}') is None
    assert it.take(b'{"entity":"what only they have","vesselId":"ship-2"}') is None
    assert it.refused == 0


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"{", b"[]", b"null", b'{"entity":"x"}', b'{"a":' * 5000, b" " * 70_000],
)
def test_a_malformed_one_is_logged_and_counted(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    it = intake()
    assert it.take(payload) is None
    assert it.refused == 1
    (record,) = caplog.records
    assert record.message.startswith("[MQTT Reliable Sync] a request for a catch-up is refused: ")
    assert "\n" not in record.message
    assert len(record.message) < 300


def test_too_many_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    it = intake()
    taken = [it.take(orjson.dumps({"entity": "alerts", "requestId": f"r{n}"})) for n in range(100)]
    assert sum(request is not None for request in taken) == RequestIntake.BURST
    assert it.refused == 70
    assert len(caplog.records) == 1


def test_a_flood_of_malformed_ones_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    it = intake()
    for _ in range(1000):
        it.take(b"?")
    assert it.refused == 1000
    assert len(caplog.records) == RequestIntake.BURST + 1


# -- how far it has come --------------------------------------------------------------------------


def status(*entities: tuple[str, int, int | None]) -> CatchupStatus:
    return CatchupStatus(
        "id", None, "http", 0,
        tuple(
            EntityStatus(
                f"e{n}", "t", CatchupState(state), None, published, total, 0, "", None,
                "why" if state == "failed" else None, 5 if state in {"complete", "failed"} else None,
            )
            for n, (state, published, total) in enumerate(entities)
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entities", "expected"),
    [
        ([("queued", 0, None), ("queued", 0, None)], ("queued", 0, None, None)),
        ([("running", 2, 5), ("queued", 0, None)], ("running", 2, None, None)),
        ([("complete", 5, 5), ("queued", 0, None)], ("running", 5, None, None)),
        ([("complete", 5, 5), ("running", 1, 2)], ("running", 6, 7, None)),
        ([("complete", 5, 5), ("complete", 2, 2)], ("complete", 7, 7, 5)),
        ([("failed", 0, 0), ("running", 1, 2)], ("running", 1, 2, None)),
        ([("failed", 0, 0), ("complete", 2, 2)], ("failed", 2, 2, 5)),
    ],
)
def test_the_whole_is_as_far_as_its_parts(entities: Any, expected: Any) -> None:
    whole = status(*entities)
    assert (whole.status, whole.published, whole.total, whole.finished_at) == expected
