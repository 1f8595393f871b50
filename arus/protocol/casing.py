"""The keys of JSON: camelCase, for the snake_case names of code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from marshmallow import Schema, fields


@lru_cache(maxsize=1024)
def camel(name: str) -> str:
    """Return the JSON key of a snake_case name."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


class CamelSchema(Schema):
    """A schema whose fields have camelCase keys in JSON."""

    def __deepcopy__(self, _memo: Any) -> CamelSchema:
        """Return the schema itself: flask-smorest copies all that an operation says, in each of its decorators."""
        return self

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Set the JSON key of a field that has none."""
        field_obj.data_key = field_obj.data_key or camel(field_name)
