"""Dumps rows as a marshmallow schema does, with all that does not depend on the row found out once.

A schema goes through five calls for the value of each field of each row, to see what is overridden: nearly half of the
instructions of its `dump`, which is the largest part of what a committed change costs.
"""

from __future__ import annotations

from types import NoneType
from typing import Any, NamedTuple

from marshmallow import Schema, fields, missing

_TEXTS: frozenset[type] = frozenset({str, NoneType})
_WHOLE: frozenset[type] = frozenset({int, NoneType})
_FLOATS: frozenset[type] = frozenset({float, NoneType})
#: The most frequent types of values of fields that serialise nothing: booleans and raw ones.
_ANY: frozenset[type] = frozenset({NoneType, bool, int, float, str, list, dict})
#: What a schema and a field must have inherited, as the steps do the same.
_OF_SCHEMA = ("dump", "get_attribute", "_serialize")
_OF_FIELD = ("serialize", "get_value")
_HOOKS = ("pre_dump", "post_dump")


class _Step(NamedTuple):
    """How the value of one field is dumped."""

    #: The field's name in the schema, and its key in the data.
    name: str
    key: str
    #: The row's attribute; None if the field itself must be asked for the value.
    attribute: str | None
    field: fields.Field[Any]
    #: The types of values that need not be serialised.
    plain: frozenset[type]


class RowDump:
    """Dumps rows by a schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._steps = _steps(schema) if _is_ordinary(schema) else None
        #: What the schema has of its own: somebody may give it another `dump` later.
        self._own = getattr(schema, "__dict__", {})

    def __call__(self, row: Any) -> Any:
        """Return what `schema.dump` returns."""
        steps, schema = self._steps, self._schema
        # A row with items is asked for these first.
        if steps is None or "dump" in self._own or hasattr(row, "__getitem__"):
            return schema.dump(row)
        data = schema.dict_class()
        # This runs for each field of each committed row.
        for name, key, attribute, field, plain in steps:
            if attribute is None:
                value = field.serialize(name, row, accessor=schema.get_attribute)
            else:
                value = getattr(row, attribute, missing)
                if type(value) not in plain:
                    if value is missing:
                        value = _default(field)
                    if value is not missing:
                        value = field._serialize(value, name, row)
            if value is not missing:
                data[key] = value
        return data


def _default(field: fields.Field[Any]) -> Any:
    """Return the value that is dumped for a row without one; `missing` if there is none."""
    return field.dump_default() if callable(field.dump_default) else field.dump_default


def _is_ordinary(schema: Schema) -> bool:
    """Whether a schema dumps one row, field by field, and nothing else."""
    hooks = getattr(schema, "_hooks", None)
    if hooks is None or any(hooks.get(each) for each in _HOOKS):
        return False
    return not schema.many and _inherits(schema, Schema, _OF_SCHEMA)


def _steps(schema: Schema) -> tuple[_Step, ...]:
    return tuple(
        _Step(
            name,
            name if field.data_key is None else field.data_key,
            _attribute(name, field),
            field,
            _plain(field),
        )
        for name, field in schema.dump_fields.items()
    )


def _attribute(name: str, field: fields.Field[Any]) -> str | None:
    attribute = name if field.attribute is None else field.attribute
    is_read = getattr(field, "_CHECK_ATTRIBUTE", False) and _inherits(
        field, fields.Field, _OF_FIELD
    )
    # A path leads through other objects.
    return attribute if is_read and "." not in attribute else None


def _plain(field: fields.Field[Any]) -> frozenset[type]:
    """Return the types of values that a field serialises as they are."""
    if _inherits(field, fields.String, ("_serialize",)):
        return _TEXTS
    if _inherits(field, fields.Field, ("_serialize",)):
        return _ANY
    for base, types in ((fields.Integer, _WHOLE), (fields.Float, _FLOATS)):
        if _inherits(field, base, ("_serialize", "_format_num", "num_type")):
            return types if not field.as_string else frozenset()  # type: ignore[attr-defined]
    return frozenset()


def _inherits(one: Any, base: type, names: tuple[str, ...]) -> bool:
    """Whether an object has these functions of a class, and none of its own."""
    return all(
        name not in vars(one) and getattr(type(one), name) is getattr(base, name) for name in names
    )
