"""A row is dumped exactly as its schema dumps it, however the schema is made."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, fields, missing, post_dump, pre_dump

from arus.row_dump import RowDump


class Text(str):
    """A text that is not quite one."""

    __slots__ = ()


class Shout(fields.String):
    def _serialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        return str(value).upper()


class Reader(fields.String):
    def get_value(self, obj: Any, attr: str, *_args: Any, **_kwargs: Any) -> Any:
        return f"{attr} of {obj.text}"


class Whole(fields.String):
    def serialize(self, attr: str, obj: Any, accessor: Any = None, **_kwargs: Any) -> Any:
        return [attr, obj.text, accessor(obj, "text", None)]


class Doubled(fields.Integer):
    def _format_num(self, value: Any) -> Any:
        return int(value) * 2


class Hidden(fields.String):
    def _serialize(self, *_args: Any, **_kwargs: Any) -> Any:
        return missing


class Inner(Schema):
    text = fields.String()


class Plain(Schema):
    text = fields.String()
    number = fields.Integer()
    as_text = fields.Integer(as_string=True, attribute="number", dump_only=True)
    named = fields.String(attribute="text", dump_only=True, data_key="theName")
    float_of = fields.Float(attribute="number", dump_only=True)
    decimal = fields.Decimal(as_string=True)
    flag = fields.Boolean()
    day = fields.Date()
    at = fields.DateTime()
    shout = Shout(attribute="text", dump_only=True)
    read = Reader()
    whole = Whole()
    doubled = Doubled(attribute="number", dump_only=True)
    hidden = Hidden(attribute="text", dump_only=True)
    inner = fields.Nested(Inner)
    inner_text = fields.String(attribute="inner.text", dump_only=True)
    words = fields.List(fields.String())
    constant = fields.Constant("always")
    made = fields.Function(lambda row: row.text)
    method = fields.Method("from_method")
    absent = fields.String()
    absent_default = fields.String(dump_default="said instead")
    absent_made = fields.Integer(dump_default=lambda: "7")
    only_loaded = fields.String(load_only=True)

    def from_method(self, row: Any) -> Any:
        return [row.text]


class Upper(Plain):
    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        found = super().get_attribute(obj, attr, default)
        return found.upper() if isinstance(found, str) else found


class After(Plain):
    @post_dump
    def add(self, data: Any, **_kwargs: Any) -> Any:
        return {**data, "added": True}


class Before(Plain):
    @pre_dump
    def replace(self, row: Any, **_kwargs: Any) -> Any:
        return SimpleNamespace(**{**vars(row), "text": "replaced"})


class Own(Plain):
    def dump(self, obj: Any, **_kwargs: Any) -> Any:
        return {"own": obj.text}


class WithItems(SimpleNamespace):
    """Asked for its items first."""

    def __getitem__(self, key: str) -> Any:
        if key == "text":
            return "an item"
        raise KeyError(key)


def row(**values: Any) -> dict[str, Any]:
    return {
        "text": "Ärmel",
        "number": 3,
        "decimal": Decimal("1.50"),
        "flag": True,
        "day": date(2026, 1, 2),
        "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "inner": SimpleNamespace(text="inside"),
        "words": ["a", "b"],
        **values,
    }


def typed(data: Any) -> Any:
    """Return data with the types of all values, in their order."""
    if isinstance(data, dict):
        return [type(data), *((key, typed(value)) for key, value in data.items())]
    return type(data), data


SCHEMAS = [
    Plain(),
    Upper(),
    After(),
    Before(),
    Own(),
    Plain(only=["text", "number"]),
    Plain(exclude=["inner"]),
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: type(schema).__name__)
@pytest.mark.parametrize("kind", [SimpleNamespace, WithItems])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"text": None, "number": None, "flag": None, "inner": None, "words": None, "day": None},
        {"text": Text("kind of"), "number": True},
        {"text": b"bytes", "number": 2.9},
        {"text": 5, "number": "12"},
    ],
)
def test_a_row_is_dumped_as_by_the_schema(schema: Schema, kind: Any, values: Any) -> None:
    made = kind(**row(**values))
    assert typed(RowDump(schema)(made)) == typed(schema.dump(made))


@given(st.one_of(st.none(), st.text(), st.integers(), st.floats(allow_nan=False), st.booleans()))
def test_any_value_is_dumped_as_by_the_schema(value: Any) -> None:
    class Every(Schema):
        text = fields.String()
        flag = fields.Boolean(attribute="text", dump_only=True)
        raw = fields.Raw(attribute="text", dump_only=True)
        hours = fields.Float(attribute="hours", dump_only=True)

    made = SimpleNamespace(text=value, hours=None if isinstance(value, str) else value)
    schema = Every()
    assert typed(RowDump(schema)(made)) == typed(schema.dump(made))


def test_a_field_is_not_asked_for_a_value_that_it_leaves_as_it_is() -> None:
    class Usual(Schema):
        text = fields.String()
        number = fields.Integer()
        hours = fields.Float()
        empty = fields.Float()
        flag = fields.Boolean()
        raw = fields.Raw()

    values = {"text": "a", "number": 1, "hours": 1.5, "empty": None, "flag": True, "raw": [1]}
    dump, asked = RowDump(Usual()), []
    sys.setprofile(lambda frame, *_: asked.append(frame.f_code.co_name))
    try:
        dumped = dump(SimpleNamespace(**values))
    finally:
        sys.setprofile(None)
    assert dumped == values
    assert "_serialize" not in asked


def test_an_error_is_the_schemas() -> None:
    made = SimpleNamespace(**row(number="no number"))
    with pytest.raises(ValueError, match="no number"):
        RowDump(Plain())(made)


def test_a_schema_with_a_function_of_its_own_dumps_itself() -> None:
    schema: Any = Plain()
    schema.dump = lambda row: {"said": row.text}
    assert RowDump(schema)(SimpleNamespace(**row())) == {"said": "Ärmel"}


def test_a_schema_that_is_given_a_function_later_dumps_itself_too() -> None:
    schema: Any = Plain()
    dump = RowDump(schema)
    schema.dump = lambda row: {"said": row.text}
    assert dump(SimpleNamespace(**row())) == {"said": "Ärmel"}
