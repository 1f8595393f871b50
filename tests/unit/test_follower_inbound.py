"""What a follower reads: all that a vessel publishes, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import RefusedMessageError
from arus.follower.inbound import (
    MAX_DEPTH,
    Begin,
    Change,
    Digest,
    End,
    Followed,
    Numbered,
    Reader,
    Status,
    too_deep,
)
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
    assert isinstance(begin, Begin)
    assert isinstance(item, Change)
    assert isinstance(end, End)
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
        ("data", None), ("data", []), ("data", {}), ("data", {"id": ""}), ("data", {"id": None}),
        ("data", {"id": "x" * 65}), ("data", {"id": 1.5}), ("data", {"id": "a\0"}),
        ("vesselId", ""), ("vesselId", "x" * 65), ("vesselId", 7), ("epoch", "x" * 37),
        ("seq", 0), ("seq", "1"), ("seq", 1.0), ("seq", True), ("seq", 2**53), ("seq", None),
        ("previousSeq", -1), ("previousSeq", 1), ("previousSeq", None), ("version", 0),
        ("version", False), ("messageId", ""), ("messageId", 5), ("timestamp", 5),
        ("timestamp", "later"), ("timestamp", "2" * 50),
    ],
)  # fmt: skip
def test_a_change_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(RefusedMessageError):
        read("crew", {**ship().log[0], field: value})


def test_a_deep_row_is_refused() -> None:
    deep: Any = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(RefusedMessageError, match="nested deeper"):
        read("crew", {**ship().log[0], "data": {"id": "a", "deep": deep}})
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
