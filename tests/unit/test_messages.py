"""Messages: their ids, times and bytes."""

from __future__ import annotations

import enum
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arus.errors import RefusedMessageError
from arus.protocol.encoding import encode, encode_change
from arus.protocol.entries import Entry, Operation, new_message_id
from arus.protocol.messages import Status
from arus.protocol.rows import encode_row
from arus.protocol.times import iso, now_ms, parse_time

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
    status = Status(
        status="online",
        vessel_id="v",
        timestamp=iso(0),
        generation=2,
        epoch="e",
        seq=9,
        topics={"crew": 8, "alerts": 9},
        pending=1,
        complete=True,
    )
    assert encode(status).decode() == (
        '{"status":"online","vesselId":"v","timestamp":"1970-01-01T00:00:00.000Z","generation":2,'
        '"epoch":"e","seq":9,"topics":{"crew":8,"alerts":9},"pending":1,"complete":true}'
    )


@given(st.integers(0, 4_102_444_800_000))
def test_a_time_is_utc_to_the_millisecond(milliseconds: int) -> None:
    told = iso(milliseconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told)
    since = datetime.fromisoformat(told) - datetime(1970, 1, 1, tzinfo=UTC)
    assert since == timedelta(milliseconds=milliseconds)


@given(st.datetimes(timezones=st.just(UTC)))
def test_each_time_of_the_calendar_can_be_read_and_written(moment: datetime) -> None:
    try:
        milliseconds = parse_time(moment.isoformat())
    except RefusedMessageError:
        assert moment.year == 9999, "rounded up to the year 10000"
    else:
        assert parse_time(iso(milliseconds)) == milliseconds


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59.000-12:00",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00.000+12:00",
    ],
)
def test_a_time_that_utc_has_no_year_for_is_refused(text: str) -> None:
    with pytest.raises(RefusedMessageError, match="not a time"):
        parse_time(text)


def test_now_is_now() -> None:
    assert abs(now_ms() - datetime.now(UTC).timestamp() * 1000) < 5_000


class Reading(enum.Enum):
    GOOD = 1.5
    NONE = float("nan")


@dataclass
class Point:
    x: Any


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "^row.value is nan"),
        (float("-inf"), "^row.value is -inf"),
        ({"a": [1.0, {"b": float("inf")}]}, r"^row.value.a\[1\].b is inf"),
        (("x", float("nan")), r"^row.value\[1\] is nan"),
        (OrderedDict(a=float("nan")), "^row.value.a is nan"),
        (Reading.NONE, "^row.value is nan"),
        (Point(float("nan")), "^row.value.x is nan"),
        (
            datetime(1850, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
            "^row.value has an offset from UTC",
        ),
    ],
)
def test_a_value_that_would_be_written_as_another_one_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_row({"row": {"value": value}})


@pytest.mark.parametrize("value", [b"x", {1}, {1: 2}, 2**64, "\ud800", {"\ud800": 1}, 1j])
def test_a_value_without_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode_row({"value": value})


@pytest.mark.parametrize(
    "value",
    [
        None, "null", "NaN", "\0", 0, -1.5, -0.0, 1e300, 2**63, 2**64 - 1, True, [], {}, [None, [1.5]],
        (1, 2), Reading.GOOD, Point(None), UUID(int=1), date(5, 1, 1), datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ],
)  # fmt: skip
def test_what_json_can_say_is_written_as_it_always_was(value: Any) -> None:
    assert encode_row({"value": value}) == orjson.dumps({"value": value})
