"""Changes as JSON, and the query of their list."""

from __future__ import annotations

from typing import Any

import orjson
from marshmallow import ValidationError, fields, post_load, validate
from webargs.fields import DelimitedList

from arus.message import ChangeState, Operation, iso, iso_or_none
from arus.requests import BUCKETS, MAX_CURSOR, CatchupState
from arus.requests import DEFAULT_LIMIT as CATCHUP_LIMIT
from arus.requests import MAX_LIMIT as MAX_CATCHUP_LIMIT
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


_CHANGE = {
    "messageId": "1795334400000_abc123def",
    "entity": "work_orders",
    "operation": "update",
    "rowId": "5f0c3e1a-8c1d-4f0e-9b57-2f1f6d1c0a03",
    "version": 2,
    "state": "quarantined",
    "reason": "larger than the broker takes",
    "topic": "work_orders",
    "qos": 1,
    "seq": 1234,
    "previousSeq": 1230,
    "timestamp": "2026-11-22T08:00:00.000Z",
}
_CATCHUP_ID = "0f8b1c5e-55f0-4c8e-8f0e-6d2f1f9e7a10"


class ChangeSchema(CamelSchema):
    """A change, and what became of it."""

    example = _CHANGE

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

    example = {
        **_CHANGE,
        "appliedBy": {"shore": False},
        "data": {"id": _CHANGE["rowId"], "version": 2, "reason": "Bearing"},
    }

    data = fields.Function(lambda change: orjson.loads(change.data), metadata={"type": "object"})
    applied_by = fields.Dict(
        keys=fields.String(),
        values=fields.Boolean(),
        metadata={
            "description": "for each follower that has told of itself, whether it has applied this",
            "example": {"shore": True},
        },
    )


class ChangesPageSchema(CamelSchema):
    """A page of changes."""

    example = {"items": [_CHANGE], "next": "1230"}

    items = fields.List(fields.Nested(ChangeSchema))
    next = fields.String(allow_none=True)


def _raw(description: str, *, required: bool = False, **schema: Any) -> fields.Raw:
    # Described here, validated by arus.requests: the same words for HTTP, MQTT and the command line.
    return fields.Raw(
        required=required, allow_none=not required, metadata={"description": description, **schema}
    )


class CatchupRequestSchema(CamelSchema):
    """What is to be sent again. At most one of `since`, `sinceSeq` and `cursor`; with none: all rows."""

    entity = _raw('name of an entity, or "all"', required=True, type="string")
    since = _raw(
        "changes committed from then on; without a zone: UTC",
        type="string",
        format="date-time",
    )
    since_seq = _raw(
        "changes above this number, of the log that `epoch` names",
        type="integer",
        minimum=0,
        maximum=2**63 - 1,
    )
    epoch = _raw("goes with `sinceSeq`", type="string", maxLength=36)
    cursor = _raw(
        "`next` of an earlier one of the same entity, which this continues",
        type="string",
        maxLength=MAX_CURSOR,
    )
    limit = _raw(
        f"items of each entity at most; {CATCHUP_LIMIT} when left out, null for no limit",
        type="integer",
        minimum=1,
        maximum=MAX_CATCHUP_LIMIT,
    )
    mode = _raw(
        "snapshot: the rows themselves, also where the log still holds their changes;"
        " digest: no rows, but the digest of all tables, on `system/digest`",
        type="string",
        enum=["snapshot", "digest", None],
    )
    buckets = _raw(
        "with mode snapshot: only rows in these buckets of the digest",
        type="array",
        items={"type": "integer", "minimum": 0, "maximum": BUCKETS - 1},
        minItems=1,
        maxItems=BUCKETS,
    )
    request_id = _raw(
        "your own name for this request: the same again is the same catch-up",
        type="string",
        maxLength=64,
    )

    @post_load(pass_original=True)
    def as_sent(self, _data: Any, original_data: Any, **_kwargs: Any) -> Any:
        """Return the document as it was sent, for `arus.requests.parse` to read."""
        return original_data


class CatchupQueuedSchema(CamelSchema):
    """A catch-up that was asked for."""

    example = {"catchupId": _CATCHUP_ID, "status": "queued"}

    catchup_id = fields.UUID()
    status = fields.Enum(CatchupState, by_value=True)


def _moment(attribute: str, description: str) -> fields.Function:
    return fields.Function(
        lambda thing: iso_or_none(getattr(thing, attribute)),
        metadata={"type": ["string", "null"], "format": "date-time", "description": description},
    )


class EntityCatchupSchema(CamelSchema):
    """How far the catch-up of one entity has come."""

    entity = fields.String(metadata={"description": "`*` of a digest, which is of all"})
    status = fields.Enum(CatchupState, by_value=True)
    mode = fields.String(
        allow_none=True,
        validate=validate.OneOf(["log", "snapshot", "repair", "must_refetch", "digest"]),
        metadata={"description": "null until it is planned"},
    )
    published = fields.Integer(metadata={"description": "items that the broker acknowledged"})
    total = fields.Integer(allow_none=True, metadata={"description": "null until it is planned"})
    high_seq = fields.Integer()
    digest = fields.String(metadata={"description": "over the items acknowledged so far"})
    next = fields.String(
        allow_none=True, metadata={"description": "the cursor that continues where `limit` stopped"}
    )
    reason = fields.String(allow_none=True, metadata={"description": "why it failed"})
    finished_at = _moment("finished_at", "null while it goes on")


class CatchupSchema(CamelSchema):
    """How far a catch-up has come."""

    example = {
        "catchupId": _CATCHUP_ID,
        "requestId": None,
        "origin": "http",
        "status": "running",
        "published": 200,
        "total": 1500,
        "reason": None,
        "createdAt": "2026-11-22T08:00:00.000Z",
        "finishedAt": None,
        "entities": [
            {
                "entity": "work_orders",
                "status": "running",
                "mode": "log",
                "published": 200,
                "total": 1500,
                "highSeq": 12034,
                "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "next": None,
                "reason": None,
                "finishedAt": None,
            }
        ],
    }

    catchup_id = fields.UUID()
    request_id = fields.String(allow_none=True)
    origin = fields.String(validate=validate.OneOf(["http", "cli", "mqtt", "repair"]))
    status = fields.Enum(CatchupState, by_value=True)
    published = fields.Integer(metadata={"description": "items that the broker acknowledged"})
    total = fields.Integer(
        allow_none=True, metadata={"description": "null until all of it is planned"}
    )
    reason = fields.String(allow_none=True, metadata={"description": "why it failed"})
    created_at = _moment("created_at", "when it was asked for")
    finished_at = _moment("finished_at", "null while it goes on")
    entities = fields.List(fields.Nested(EntityCatchupSchema))


class LinkSchema(CamelSchema):
    """The link to the broker, and the queue before it."""

    enabled = fields.Boolean(metadata={"description": "LOCAL_MODE: changes are captured"})
    status = fields.String(validate=validate.OneOf(["connected", "disconnected"]))
    reason = fields.String(
        allow_none=True,
        metadata={"description": "why it is not connected or not getting on"},
    )
    broker = fields.String(metadata={"description": "without credentials"})
    qos_level = fields.Integer()
    queued_messages = fields.Integer(metadata={"description": "undelivered changes"})
    max_queue_size = fields.Integer()
    queue_utilization = fields.String(metadata={"description": "in percent, with the sign"})
    active_subscriptions = fields.Integer()
    topics = fields.Integer()
    reconnect_attempts = fields.Integer()
    tls_enabled = fields.Boolean()


class DetailedMetricsSchema(CamelSchema):
    """Counters since the database was made, and the queue as it is."""

    messages_published = fields.Integer(metadata={"description": "acknowledged by the broker"})
    messages_queued = fields.Integer(
        metadata={"description": "found no connection when they were committed"}
    )
    messages_dropped = fields.Integer()
    publish_failures = fields.Integer()
    reconnection_attempts = fields.Integer()
    queue_flushes = fields.Integer()
    current_queue_size = fields.Integer()
    max_queue_size = fields.Integer()
    queue_utilization = fields.Float(metadata={"description": "in percent"})
    is_connected = fields.Boolean()
    reconnect_attempts = fields.Integer()


class OwnerSchema(CamelSchema):
    """The process that holds the session."""

    pid = fields.Integer()
    host = fields.String()
    since = fields.String(metadata={"format": "date-time"})
    generation = fields.Integer(metadata={"description": "grows by 1 with each takeover"})


class HealthSchema(CamelSchema):
    """Where the sync stands; the same from each worker."""

    example = {
        "service": "MQTT Reliable Sync Service",
        "status": "healthy",
        "timestamp": "2026-11-22T08:00:00.000Z",
        "mqtt": {
            "enabled": True,
            "status": "connected",
            "reason": None,
            "broker": "mqtts://shore.example:8883",
            "qosLevel": 1,
            "queuedMessages": 0,
            "maxQueueSize": 10000,
            "queueUtilization": "0.0%",
            "activeSubscriptions": 2,
            "topics": 8,
            "reconnectAttempts": 0,
            "tlsEnabled": True,
        },
        "detailedMetrics": {
            "messagesPublished": 5120,
            "messagesQueued": 318,
            "messagesDropped": 0,
            "publishFailures": 0,
            "reconnectionAttempts": 41,
            "queueFlushes": 7,
            "currentQueueSize": 0,
            "maxQueueSize": 10000,
            "queueUtilization": 0.0,
            "isConnected": True,
            "reconnectAttempts": 0,
        },
        "owner": {
            "pid": 4711,
            "host": "bridge-1",
            "since": "2026-11-22T06:12:09.000Z",
            "generation": 12,
        },
    }

    service = fields.String()
    status = fields.String(
        validate=validate.OneOf(["healthy", "degraded"]),
        metadata={
            "description": "degraded while there is no connection, or a change has waited for a minute in"
            " which nothing was acknowledged; mqtt.reason says why"
        },
    )
    timestamp = fields.String(metadata={"format": "date-time"})
    mqtt = fields.Nested(LinkSchema)
    detailed_metrics = fields.Nested(DetailedMetricsSchema)
    owner = fields.Nested(OwnerSchema, allow_none=True)
