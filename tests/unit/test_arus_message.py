"""Messages: their ids, times and bytes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from arus.message import (
    Entry,
    Operation,
    encode_change,
    encode_status,
    iso,
    new_message_id,
    now_ms,
)

ENTRY = Entry(
    id=7, seq=1234, previous_seq=1230, message_id="1795334400000_abc123def", topic="maintenance", qos=1,
    entity="maintenance_schedules", operation=Operation.UPDATE, row_id="r", version=3,
    committed_at=1_795_334_400_007, data='{"id":"r","name":"Ärger"}'.encode(),
)  # fmt: skip


def test_a_message_id_is_the_time_and_nine_random_characters() -> None:
    ids = {new_message_id(1_795_334_400_000) for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"1795334400000_[0-9a-z]{9}", message_id) for message_id in ids)


def test_a_change_has_the_fields_of_the_contract_in_the_same_bytes_each_time() -> None:
    encoded = encode_change(ENTRY, epoch="e", vessel_id="v")
    assert encoded == encode_change(ENTRY, epoch="e", vessel_id="v")
    assert encoded.decode() == (
        '{"type":"data_change","entity":"maintenance_schedules","operation":"update",'
        '"data":{"id":"r","name":"Ärger"},"timestamp":"2026-11-22T08:00:00.007Z",'
        '"messageId":"1795334400000_abc123def","vesselId":"v","epoch":"e","seq":1234,'
        '"previousSeq":1230,"version":3}'
    )


def test_a_status_has_the_fields_of_the_contract() -> None:
    encoded = encode_status(
        "online",
        vessel_id="v",
        generation=2,
        epoch="e",
        seq=9,
        topics={"crew": 8, "alerts": 9},
        pending=1,
        at=0,
    )
    assert json.loads(encoded) == {
        "status": "online",
        "vesselId": "v",
        "timestamp": "1970-01-01T00:00:00.000Z",
        "generation": 2,
        "epoch": "e",
        "seq": 9,
        "topics": {"crew": 8, "alerts": 9},
        "pending": 1,
    }


@given(st.integers(0, 4_102_444_800_000))
def test_a_time_is_utc_to_the_millisecond(milliseconds: int) -> None:
    told = iso(milliseconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told)
    since = datetime.fromisoformat(told) - datetime(1970, 1, 1, tzinfo=UTC)
    assert since == timedelta(milliseconds=milliseconds)


def test_now_is_now() -> None:
    assert abs(now_ms() - datetime.now(UTC).timestamp() * 1000) < 5_000
