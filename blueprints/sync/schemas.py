"""Changes as JSON, and the query of their list."""

from __future__ import annotations

from typing import Any

import orjson
from marshmallow import ValidationError, fields, validate
from webargs.fields import DelimitedList

from arus.message import ChangeState, Operation, iso
from blueprints.common.fields import CamelSchema, Choice, Text, Whole
from blueprints.common.paging import DEFAULT_LIMIT, MAX_LIMIT
from extensions import sync

_LAST_ID = 2**63 - 1


class CursorField(Text):
    """`next` of a page, which is the id that it ended with."""

    default_error_messages = {"cursor": "Not a cursor of this list."}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        if not (isinstance(value, str) and value.isascii() and value.isdigit()):
            raise self.make_error("cursor")
        if len(value) > 19 or not 0 < int(value) <= _LAST_ID:
            raise self.make_error("cursor")
        return int(value)


def known_entity(name: str | None) -> None:
    """Refuse what is not the name of an entity.

    :raises ValidationError: it is not.
    """
    entities = sync.entities()
    if name not in entities:
        raise ValidationError(f"Must be one of: {', '.join(entities)}.")


class ChangesQuerySchema(CamelSchema):
    """Which changes are asked for."""

    state = DelimitedList(
        Choice(tuple(ChangeState)),
        validate=validate.Length(max=20),
        metadata={
            "description": f"only changes in these states, with commas between: {', '.join(ChangeState)}"
        },
    )
    entity = Text(64, allow_none=False, validate=known_entity)
    limit = Whole(1, MAX_LIMIT, load_default=DEFAULT_LIMIT)
    cursor = CursorField(20, metadata={"description": "`next` of the page before"})


class ChangeSchema(CamelSchema):
    """A change, and what became of it."""

    message_id = fields.String()
    entity = fields.String()
    operation = fields.String(validate=validate.OneOf(list(Operation)))
    row_id = fields.String()
    version = fields.Integer()
    state = fields.String(validate=validate.OneOf(list(ChangeState)))
    reason = fields.String(
        allow_none=True, metadata={"description": "why it is quarantined, superseded or dropped"}
    )
    topic = fields.String(metadata={"description": "under MQTT_TOPIC_PREFIX"})
    qos = fields.Integer()
    seq = fields.Integer(
        allow_none=True, metadata={"description": "null while it has not been numbered"}
    )
    previous_seq = fields.Integer(allow_none=True)
    timestamp = fields.Function(
        lambda change: iso(change.committed_at),
        metadata={"type": "string", "format": "date-time", "description": "of the commit"},
    )


class OneChangeSchema(ChangeSchema):
    """A change with the row that it carries."""

    data = fields.Function(lambda change: orjson.loads(change.data), metadata={"type": "object"})


class ChangesPageSchema(CamelSchema):
    """A page of changes."""

    items = fields.List(fields.Nested(ChangeSchema))
    next = fields.String(allow_none=True)
