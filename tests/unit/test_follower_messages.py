"""What a follower reads: all that a vessel publishes, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import RefusedMessageError
from arus.follower.messages import Change, Followed, Reader
from arus.protocol.messages import CatchupBegin, CatchupEnd, Digest, Numbered, Status
from arus.protocol.rows import MAX_DEPTH, too_deep
from tests.support.ship_model import ENTITIES, ShipModel

READER = Reader("p", {topic: Followed(entity, topic, "id") for topic, entity in ENTITIES.items()})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TOPICS = ["crew", "maintenance", "catchup/crew", "system/status", "system/digest", "conflicts", "x"]


def read(topic: str, document: Any) -> Any:
    return READER.read(f"p/{topic}", orjson.dumps(document))


def ship() -> ShipModel:
    ship = ShipModel()
    ship.log_change("crew", {"name": "Ann"}, row_id="a")
    return ship


def test_each_message_of_a_vessel_is_read() -> None:
    vessel = ship()
    change = read("crew", vessel.log[0])
    assert isinstance(change, Change)
    assert (change.row_id, change.version, change.seq, change.catchup_id) == ("a", 1, 1, None)
    ((topic, messages),) = vessel.answers_to({"entity": "crew", "requestId": "r"})
    begin, item, end = (read(f"catchup/{topic}", message) for message in messages)
    assert isinstance(begin, CatchupBegin)
    assert isinstance(item, Change)
    assert isinstance(end, CatchupEnd)
    assert (begin.mode, item.sequence, end.total) == ("snapshot", 0, 1)
    status = read("system/status", vessel.status_document())
    assert isinstance(status, Status)
    assert status.heads is not None
    assert (status.online, status.pending, status.heads.topics) == (True, 0, {"crew": 1})
    bare = {"status": "offline", "vesselId": "ship-1", "timestamp": "x", "generation": 1}
    assert read("system/status", bare).epoch is None
    assert isinstance(read("conflicts", {**vessel.log[0], "entity": "conflicts"}), Numbered)
    digest = {
        "type": "digest", "vesselId": "s", "epoch": "e", "seq": 3, "timestamp": "x",
        "entities": {"crew": {"topic": "crew", "lastSeq": 2}},
    }  # fmt: skip
    told = read("system/digest", digest)
    assert isinstance(told, Digest)
    assert told.heads.topics == {"crew": 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "catchup"), ("entity", "alerts"), ("operation", "upsert"), ("operation", None),
        ("vesselId", ""), ("vesselId", "x" * 65), ("vesselId", 7), ("epoch", "x" * 37),
        ("seq", 0), ("seq", "1"), ("seq", 1.0), ("seq", True), ("seq", 2**53), ("seq", None),
        ("previousSeq", -1), ("previousSeq", 1), ("previousSeq", None), ("version", 0),
        ("version", False), ("messageId", ""), ("messageId", 5), ("timestamp", 5),
        ("timestamp", "2" * 50),
    ],
)  # fmt: skip
def test_a_change_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(RefusedMessageError):
        read("crew", {**ship().log[0], field: value})


def nested(levels: int) -> Any:
    deep: Any = []
    for _ in range(levels):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("field", "value", "row_id", "reason"),
    [
        ("data", None, "", "not an object"), ("data", [], "", "not an object"),
        ("data", {}, "", "the row's id"), ("data", {"id": ""}, "", "the row's id"),
        ("data", {"id": None}, "", "the row's id"), ("data", {"id": 1.5}, "", "the row's id"),
        ("data", {"id": "x" * 65}, "x" * 65, "the row's id"),
        ("data", {"id": "a\0"}, "a\0", "the row's id"),
        ("data", {"id": "a", "deep": nested(MAX_DEPTH + 1)}, "a", "nested deeper"),
        ("timestamp", "later", "a", "time"),
    ],
)  # fmt: skip
def test_a_row_that_can_t_be_read_counts_as_received(
    field: str, value: Any, row_id: str, reason: str
) -> None:
    change = read("crew", {**ship().log[0], field: value})
    assert (change.row_id, change.version, change.seq, change.previous_seq) == (row_id, 1, 1, 0)
    assert reason in change.fault
    assert read("crew", ship().log[0]).fault == ""


@pytest.mark.parametrize(
    ("text", "row_id", "reason"),
    [
        (b'{"id": "a", "n": "\\ud800"}', "a", "JSON is malformed"),
        (b'{"id": "\\ud800"}', "?", "JSON is malformed"),
        (b'{"id": "a", "n": NaN}', "a", "JSON is malformed"),
        (b'{"id": "a", "n": 1e999}', "a", "data is not JSON"),
        (b'{"id": "a", "n": "\xff"}', "a", "utf-8"),
    ],
)
def test_a_row_that_is_no_json_or_no_utf_8_counts_as_received(
    text: bytes, row_id: str, reason: str
) -> None:
    payload = orjson.dumps({**ship().log[0], "data": "HERE"}).replace(b'"HERE"', text)
    change = READER.read("p/crew", payload)
    assert isinstance(change, Change)
    assert (change.row_id, change.seq) == (row_id, 1)
    assert reason in change.fault


def test_the_deletion_of_a_row_that_is_too_deep_is_read() -> None:
    deep = {"id": "a", "deep": nested(MAX_DEPTH + 1)}
    change = read("crew", {**ship().log[0], "operation": "delete", "data": deep})
    assert (change.row_id, change.data, change.fault) == ("a", {"id": "a"}, "")
    assert not too_deep([[1]], 2)
    assert too_deep([[1]], 1)


def test_what_is_no_json_is_refused() -> None:
    for payload in (b"", b"\xff\xfe", b"[" * 100_000, b"NaN", b'{"a": 1', b"x" * 5_000_000):
        with pytest.raises(RefusedMessageError):
            READER.read("p/crew", payload)


@given(st.sampled_from(TOPICS), JSON)
def test_whatever_comes_is_read_or_refused(topic: str, document: Any) -> None:
    try:
        payload = orjson.dumps(document)
    except (TypeError, ValueError):
        return
    with pytest.raises(RefusedMessageError):
        READER.read(f"p/{topic}", payload)


@given(st.sampled_from(sorted(ship().log[0])), JSON)
def test_a_change_with_whatever_in_a_field_is_read_or_refused(field: str, value: Any) -> None:
    try:
        payload = orjson.dumps({**ship().log[0], field: value})
    except (TypeError, ValueError):
        return
    with suppress(RefusedMessageError):
        READER.read("p/crew", payload)
