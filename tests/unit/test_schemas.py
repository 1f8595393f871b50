"""The fields of the JSON representation, each alone."""

from __future__ import annotations

import copy
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from arus.protocol.casing import camel
from blueprints.common.fields import Document, Reference, Text, Timestamp, Whole, iso
from blueprints.common.paging import decode, encode
from blueprints.equipment.models import Equipment
from blueprints.work_orders.schemas import WorkOrderSchema
from extensions.api import InvalidError, field_errors
from extensions.database import new_id, utcnow

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(datetime(1970, 1, 2), datetime(2199, 12, 30), timezones=offsets)  # noqa: DTZ001


@given(times)
def test_a_time_comes_back_as_it_went_out(moment: datetime) -> None:
    text = iso(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    back = Timestamp().deserialize(text)
    assert timedelta() <= moment - back < timedelta(milliseconds=1)
    assert iso(back) == text
    assert Timestamp().deserialize(moment.isoformat()) == back


@pytest.mark.parametrize(
    "text", ["", "now", "2026-02-30", "1969-12-31", "2200-01-01", "9" * 50, 5, None]
)
def test_what_is_no_time(text: Any) -> None:
    with pytest.raises(ValidationError):
        Timestamp().deserialize(text)


def test_now_is_exact_to_what_goes_out() -> None:
    now = utcnow()
    assert now.tzinfo is UTC
    assert datetime.fromisoformat(iso(now)) == now


@pytest.mark.parametrize(
    ("name", "key"),
    [("id", "id"), ("wo_number", "woNumber"), ("planned_end_date", "plannedEndDate")],
)
def test_camel(name: str, key: str) -> None:
    assert camel(name) == key


def test_a_schema_is_not_copied_along_with_what_an_operation_says() -> None:
    says = {"arguments": [{"schema": WorkOrderSchema()}]}
    assert copy.deepcopy(says)["arguments"][0]["schema"] is says["arguments"][0]["schema"]


def test_a_text_is_trimmed_and_a_blank_one_is_none() -> None:
    assert Text().deserialize("  two words \n") == "two words"
    assert Text().deserialize("  ") is None
    with pytest.raises(ValidationError):
        Text(required=True).deserialize("  ")
    with pytest.raises(ValidationError, match="3 characters"):
        Text(3).deserialize("four")
    assert Text(3).deserialize(" ěšč ") == "ěšč"


@pytest.mark.parametrize(("value", "number"), [(3, 3), ("3", 3), (3.0, 3)])
def test_whole_numbers(value: Any, number: int) -> None:
    assert Whole(1, 5).deserialize(value) == number


@pytest.mark.parametrize("value", [2.5, "2.5", True, "", [], float("inf"), 0, 6, 10**40])
def test_no_whole_numbers(value: Any) -> None:
    with pytest.raises(ValidationError):
        Whole(1, 5).deserialize(value)


def test_an_id_is_a_uuid_of_any_case() -> None:
    row_id = new_id()
    assert Reference().deserialize(row_id.upper()) == row_id
    with pytest.raises(ValidationError):
        Reference().deserialize(row_id + "0")


def test_a_document_that_is_too_deep_is_found_without_recursing_into_it() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="6 levels"):
        Document().deserialize(deep)
    while deep:
        deep = deep["a"]


def test_errors_are_one_list_a_field() -> None:
    with pytest.raises(ValidationError) as caught:
        WorkOrderSchema().load({"woNumber": "WO-1", "reason": "", "priority": 9, "colour": "red"})
    assert field_errors(caught.value) == {
        "woNumber": ["Read-only: the server sets it."],
        "colour": ["Unknown field."],
        "equipmentId": ["Missing data for required field."],
        "reason": ["Field may not be null."],
        "priority": ["Must be greater than or equal to 1 and less than or equal to 5."],
    }


@given(times)
def test_a_cursor_leads_back(moment: datetime) -> None:
    row = Equipment(id=new_id(), created_at=moment)
    assert decode(encode(row)) == (moment, row.id)


@given(st.text(max_size=60))
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidError):
        decode(text)
