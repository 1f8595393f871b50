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

from arus.catchup.limiter import RequestLimiter, TokenBucket
from arus.catchup.requests import (
    CatchupState,
    CatchupStatus,
    EntityStatus,
)
from arus.errors import CatchupRequestError
from arus.protocol.messages import ALL, DEFAULT_LIMIT, CatchupRequest
from arus.protocol.requests import parse_since, read_request

ENTITIES = ("work_orders", "alerts")
KEYS = "entity requestId vesselId since sinceSeq epoch cursor limit buckets mode entities other".split()
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


def test_an_entity_alone_asks_for_the_first_hundred_items_of_everything() -> None:
    assert read_request({"entity": "alerts"}, ENTITIES) == CatchupRequest(
        entity="alerts", limit=DEFAULT_LIMIT
    )


def test_a_null_limit_asks_for_all_items() -> None:
    assert read_request({"entity": "all", "limit": None}, ENTITIES).limit is None


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(
            ("since", time, {"since": time})
            for time in (
                "2026-11-22T12:00:00.000Z",
                "2026-11-22T14:00:00+02:00",
                "2026-11-22T12:00",
            )
        ),
        *(
            ("cursor", cursor, {"cursor": cursor})
            for cursor in ("log.e-1.s12", "snapshot.e-1.s0", 'snapshot.e-1.k"a row"')
        ),
        ("requestId", "r-1", {"request_id": "r-1"}),
        ("vesselId", "imo-1", {"vessel_id": "imo-1"}),
        ("limit", 7, {"limit": 7}),
        ("mode", "snapshot", {"mode": "snapshot"}),
        ("consumer", "shore-1", {"consumer": "shore-1"}),
        ("window", 500, {"window": 500}),
        ("somethingNew", [1], {}),
    ],
)
def test_each_key_is_read(key: str, value: Any, expected: dict[str, Any]) -> None:
    assert read_request({"entity": "alerts", key: value}, ENTITIES) == CatchupRequest(
        entity="alerts", **expected
    )


@pytest.mark.parametrize(
    "since", ["2026-11-22T12:00:00.000Z", "2026-11-22T14:00:00+02:00", "2026-11-22T12:00"]
)
def test_a_time_is_one_moment_however_it_is_written(since: str) -> None:
    assert read_request({"entity": "alerts", "since": since}, ENTITIES).since_at == NOON_MS


def test_a_number_comes_with_its_epoch() -> None:
    request = read_request({"entity": "all", "sinceSeq": 12, "epoch": "e-1"}, ENTITIES)
    assert (request.since_seq, request.epoch) == (12, "e-1")


def test_buckets_are_sorted_and_each_is_once() -> None:
    request = read_request({"entity": "all", "mode": "snapshot", "buckets": [63, 0, 63]}, ENTITIES)
    assert request.buckets == (0, 63)


def test_a_digest_is_of_all() -> None:
    request = read_request({"mode": "digest"}, ENTITIES)
    assert (request.entity, request.mode) == (ALL, "digest")


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
        ({"entity": "all", "consumer": "a b"}, ["consumer"]),
        ({"entity": "all", "consumer": "c" * 65}, ["consumer"]),
        ({"entity": "all", "window": 0}, ["window"]),
        ({"entity": "all", "window": 100_001}, ["window"]),
    ],
)
def test_what_is_wrong_is_said_of_its_key(document: Any, wrong: list[str]) -> None:
    with pytest.raises(CatchupRequestError) as caught:
        read_request(document, ENTITIES)
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
        request = read_request(document, ENTITIES)
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


class Known:
    """Knows some followers and some requests."""

    def __init__(self, *followers: str, requests: tuple[str, ...] = ()) -> None:
        self.followers = followers
        self.requests = requests

    def requester(self, consumer: str | None) -> str:
        return consumer if consumer in self.followers and consumer else "/mqtt"

    def is_repeated(self, request_id: str) -> bool:
        return request_id in self.requests


class Router:
    """A limiter that knows what a test says; time stands still until the test moves it."""

    def __init__(self, *followers: str, requests: tuple[str, ...] = ()) -> None:
        self.now = 0.0
        self.known = Known(*followers, requests=requests)
        self.limiter = RequestLimiter(ENTITIES, "ship-1", clock=lambda: self.now)

    def take(self, payload: bytes) -> CatchupRequest | None:
        return self.limiter.take(payload, self.known)

    def ask(self, number: int, consumer: str | None = None) -> bool:
        request = {"entity": "alerts", "requestId": f"{consumer}-{number}", "consumer": consumer}
        return self.take(orjson.dumps(request)) is not None

    @property
    def refused(self) -> int:
        return self.limiter.refused


router = Router


def test_a_request_over_mqtt_is_read() -> None:
    taken = router().take(b'{"requestId":"r1","entity":"all","limit":null,"vesselId":"ship-1"}')
    assert taken == CatchupRequest(entity="all", request_id="r1", vessel_id="ship-1", limit=None)


def test_a_request_to_another_vessel_is_passed_over() -> None:
    it = router()
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
    it = router()
    assert it.take(payload) is None
    assert it.refused == 1
    (record,) = caplog.records
    assert record.message.startswith(
        "[MQTT Reliable Sync] a request for a catch-up by an unnamed requester is refused: "
    )
    assert "\n" not in record.message
    assert len(record.message) < 300


def test_too_many_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    it = router()
    taken = [it.take(orjson.dumps({"entity": "alerts", "requestId": f"r{n}"})) for n in range(100)]
    assert sum(request is not None for request in taken) == RequestLimiter.BURST
    assert it.refused == 70
    assert len(caplog.records) == 1


def test_a_flood_of_malformed_ones_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    it = router()
    for _ in range(1000):
        it.take(b"?")
    assert it.refused == 1000
    assert len(caplog.records) == RequestLimiter.BURST + 1


def test_a_known_follower_has_a_share_of_its_own() -> None:
    it = router("shore")
    assert sum(it.ask(n) for n in range(100)) == RequestLimiter.BURST
    assert sum(it.ask(n, "shore") for n in range(100)) == RequestLimiter.BURST
    it.now += 2
    assert it.ask(101, "shore")


def test_names_that_nobody_knows_share_what_is_left() -> None:
    it = router("shore")
    assert sum(it.ask(n, f"invented-{n}") for n in range(500)) == RequestLimiter.BURST
    assert len(it.limiter._shares) == 1
    assert it.ask(1, "shore")


def test_many_known_followers_are_bounded_together_and_no_more_are_remembered_than_fit() -> None:
    names = [f"shore-{n}" for n in range(400)]
    it = router(*names)
    assert sum(it.ask(1, name) for name in names) == RequestLimiter.TOTAL_BURST
    assert len(it.limiter._shares) == RequestLimiter.MAX_REQUESTERS


def test_a_repeated_request_costs_nothing_and_is_not_refused() -> None:
    it = router(requests=("None-7",))
    assert not any(it.ask(7) for _ in range(1000))
    assert it.refused == 0
    assert it.ask(8)


def test_who_is_refused_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    it = router("shore")
    it.take(b'{"entity":"gold","consumer":"shore"}')
    it.take(b'{"entity":"gold","consumer":"a name with blanks"}')
    for number in range(RequestLimiter.BURST):
        it.ask(number, "shore")
    assert [record.getMessage().partition(" is refused")[0] for record in caplog.records] == [
        "[MQTT Reliable Sync] a request for a catch-up by shore",
        "[MQTT Reliable Sync] a request for a catch-up by an unnamed requester",
        "[MQTT Reliable Sync] a request for a catch-up by shore",
    ]


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


def test_fields_go_with_a_digest_alone() -> None:
    document = {"mode": "digest", "fields": {"crew": ["name", "id", "id"], "nobody": []}}
    request = read_request(document, ENTITIES)
    assert request.fields == {"crew": ("id", "name"), "nobody": ()}
    for wrong in ({"crew": "id"}, ["crew"], {"crew": [1]}, {"crew": ["x" * 201]}):
        with pytest.raises(CatchupRequestError) as refused:
            read_request({"mode": "digest", "fields": wrong}, ENTITIES)
        assert set(refused.value.errors) == {"fields"}
    with pytest.raises(CatchupRequestError) as refused:
        read_request({"entity": "alerts", "fields": {"alerts": ["id"]}}, ENTITIES)
    assert set(refused.value.errors) == {"fields"}
