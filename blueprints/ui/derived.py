"""Columns, inputs and filters, derived from a resource's schema and its table.

The schema defines a field's label, its type, its choices and whether it is required; the table defines its
default and the rows it refers to. How each type of field is entered, shown and filtered is defined once, here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import fields, validate
from msgspec import Struct

from blueprints.common.fields import (
    Choice,
    Document,
    Priority,
    Real,
    Reference,
    Steps,
    Text,
    Timestamp,
)
from blueprints.common.resource import Resource

from . import choices
from .choices import Choosing, Offer, Offered
from .inputs import Input

#: A field's control in a form, and its shape in a list and on a page; the first matching class counts.
TYPES: tuple[tuple[type[fields.Field[Any]], str, str], ...] = (
    (Choice, "choice", "word"),
    (Priority, "choice", "priority"),
    (Reference, "reference", ""),
    (Timestamp, "moment", "time"),
    (Document, "pairs", "pairs"),
    (Steps, "steps", "steps"),
    (Real, "number", "number"),
    (fields.Integer, "whole", "number"),
    (fields.Boolean, "flag", "flag"),
    (Text, "text", "text"),
)
#: Characters; a longer text is entered in a textarea and shown with its line breaks.
LONG = 2000
#: An input's share of the form's width, by the number of inputs on the line.
WIDTHS = {1: "", 2: "half", 3: "third"}


class Column(Struct, frozen=True):
    """How a list or a page shows one attribute."""

    name: str
    label: Any
    #: text, word, flag, time, number, pairs, steps, or the slug of the kind it refers to.
    shape: str = "text"
    #: Whether a list can be sorted by it.
    sort: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its values are texts of any length, or names of rows."""
        return self.shape not in {
            "word",
            "flag",
            "time",
            "due",
            "number",
            "priority",
            "status",
            "severity",
        }


class Filter(Struct, frozen=True):
    """A filter of a list."""

    #: Its name in URLs.
    name: str
    label: Any
    choosing: Choosing
    #: The choice if the URL has none.
    default: str = ""

    def offered(self, present: Sequence[str] = (), q: str = "") -> Offered:
        """Return the options that are offered at a time."""
        return self.choosing.offer(present, q)

    def where(self, text: str) -> Any:
        """Return the condition of a choice.

        :raises ValueError: it is not one of the options.
        """
        return self.choosing.where(text)

    @property
    def searched(self) -> bool:
        """Whether there may be more options than are offered at a time."""
        return self.choosing.searched


def slug_of(table: str) -> str:
    """Return the slug of a table, which names its rows in URLs."""
    return "schedules" if table == "maintenance_schedules" else table.replace("_", "-")


def columns_of(
    resource: Resource[Any], names: str, *, sort: str = "", labels: Mapping[str, Any] | None = None
) -> tuple[Column, ...]:
    """Return the columns of fields.

    :param names: the fields, in order.
    :param sort: the fields that a list can be sorted by; each has an index.
    :param labels: labels of columns that differ from their field's.
    """
    schema = resource.row_schema
    columns = []
    for name in names.split():
        field = schema.fields[name]
        label = (labels or {}).get(name) or field.metadata["label"]
        shape = field.metadata.get("shape") or _shape(resource, name, field)
        columns.append(Column(name, label, shape, sort=name in sort.split()))
    return tuple(columns)


def inputs_of(resource: Resource[Any], *lines: str) -> tuple[Input, ...]:
    """Return the inputs of the fields, which are given line by line."""
    schema = resource.row_schema
    return tuple(
        _input(resource, name, schema.fields[name], WIDTHS[len(line.split())])
        for line in lines
        for name in line.split()
    )


def filter_of(
    resource: Resource[Any],
    attribute: str,
    *,
    name: str = "",
    unfinished: tuple[str, ...] = (),
    default: str = "",
) -> Filter:
    """Return the filter of a field.

    :param name: the filter's name in URLs, if it is not the field's.
    :param unfinished: the values of a status that mean that work is outstanding.
    :param default: the choice if the URL has none.
    """
    field = resource.row_schema.fields[attribute]
    column = getattr(resource.model, attribute)
    match _control(field):
        case "choice":
            choosing = choices.enumerated(column, values_of(field), unfinished)
        case "reference":
            choosing = choices.referred(column, _offer(resource, attribute))
        case "flag":
            choosing = choices.flag(column)
        case _:
            choosing = choices.present_values(resource.model, attribute)
    return Filter(name or attribute, field.metadata["label"], choosing, default)


def values_of(field: fields.Field[Any]) -> tuple[object, ...]:
    """Return the values that a field's validators accept."""
    for validator in field.validators:
        if isinstance(validator, validate.OneOf):
            return tuple(validator.choices)
        if isinstance(validator, validate.Range):
            return tuple(range(validator.min, validator.max + 1))
    return ()


def _input(resource: Resource[Any], name: str, field: fields.Field[Any], width: str) -> Input:
    control = _control(field)
    return Input(
        name,
        field.metadata["label"],
        control,
        required=field.required,
        values=values_of(field) if control == "choice" else (),
        offered=_offer(resource, name) if control == "reference" else None,
        hint=field.metadata.get("hint", ""),
        width=width,
        default=field.metadata.get("initial") or _default(resource, name),
    )


def _type(field: fields.Field[Any]) -> tuple[str, str]:
    return next((control, shape) for kind, control, shape in TYPES if isinstance(field, kind))


def _control(field: fields.Field[Any]) -> str:
    control, _shape = _type(field)
    return "area" if control == "text" and _is_long(field) else control


def _shape(resource: Resource[Any], name: str, field: fields.Field[Any]) -> str:
    _control, shape = _type(field)
    if isinstance(field, Reference):
        return _referred(resource, name)
    return "long" if shape == "text" and _is_long(field) else shape


def _is_long(field: fields.Field[Any]) -> bool:
    return isinstance(field, Text) and field.maximum > LONG


def _offer(resource: Resource[Any], name: str) -> Offer:
    return choices.OFFERS[_referred(resource, name)]


def _referred(resource: Resource[Any], name: str) -> str:
    """Return the slug of the rows that a field refers to."""
    (key,) = resource.model.__table__.columns[name].foreign_keys
    return slug_of(key.column.table.name)


def _default(resource: Resource[Any], name: str) -> str:
    """Return the table's default as a form shows it."""
    default = resource.model.__table__.columns[name].default
    if default is None or default.arg is False:
        return ""
    return "true" if default.arg is True else str(default.arg)
