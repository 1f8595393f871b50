"""The marshmallow schemas of the sync's API.

The API loads its arguments with them. It returns the documents of `arus` unchanged; the schemas describe
them for an OpenAPI document or a client, each with an `example`.
"""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate

from arus.catchup.requests import CatchupState
from arus.follower.fleet_query import MAX_LIMIT as MAX_FLEET
from arus.follower.fleet_query import MAX_SEARCH
from arus.protocol.casing import CamelSchema
from arus.protocol.catchups import MAX_CURSOR
from arus.protocol.digests import BUCKETS
from arus.protocol.entries import ChangeState, Operation
from arus.protocol.messages import DEFAULT_LIMIT as CATCHUP_LIMIT
from arus.protocol.requests import MAX_LIMIT as MAX_CATCHUP_LIMIT
from arus.runtime import current

#: Changes on one page: the default, and the maximum of `limit`.
DEFAULT_LIMIT = 50
MAX_LIMIT = 200

_LAST_ID = 2**63 - 1


CURSOR_ERROR = "Not a cursor of this list."


class CommaSeparated(fields.List[Any]):
    """A list in a query: comma-separated values, in one parameter or several."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[Any]:
        texts = [value] if isinstance(value, str) else value
        words = [word for text in texts if text for word in text.split(",")]
        return super()._deserialize(words, attr, data, **kwargs)


class CursorField(fields.String):
    """`next` of a page: the id of its last item."""

    default_error_messages = {"cursor": CURSOR_ERROR}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Any:
        if not (isinstance(value, str) and value.isascii() and value.isdigit()):
            raise self.make_error("cursor")
        if len(value) > 19 or not 0 < int(value) <= _LAST_ID:
            raise self.make_error("cursor")
        return int(value)


def known_entity(name: str) -> None:
    """Check that `name` is an entity of the current application.

    :raises ValidationError: it is not one.
    """
    entities = current().entities()
    if name not in entities:
        raise ValidationError(f"Must be one of: {', '.join(entities)}.")


class ProblemSchema(Schema):
    """A problem document (RFC 9457), with the errors of each field."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    instance = fields.String()
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))


class ChangesQuerySchema(CamelSchema):
    """Filters of the change log."""

    state = CommaSeparated(
        fields.Enum(ChangeState, by_value=fields.String),
        validate=validate.Length(max=20),
        metadata={
            "description": f"only changes in these states, separated by commas: {', '.join(ChangeState)}"
        },
    )
    entity = fields.String(validate=known_entity, metadata={"maxLength": 64})
    limit = fields.Integer(validate=validate.Range(1, MAX_LIMIT), load_default=DEFAULT_LIMIT)
    cursor = CursorField(metadata={"description": "`next` of the previous page", "maxLength": 20})


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
    "actor": "user:ann",
}
_CATCHUP_ID = "0f8b1c5e-55f0-4c8e-8f0e-6d2f1f9e7a10"


class ChangeSchema(CamelSchema):
    """A change and its state."""

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
    seq = fields.Integer(allow_none=True, metadata={"description": "null until it is numbered"})
    previous_seq = fields.Integer(allow_none=True)
    timestamp = fields.String(metadata={"format": "date-time", "description": "of the commit"})
    actor = fields.String(
        allow_none=True,
        metadata={
            "description": "who made it: user:NAME, token:NAME, command:NAME or unauthenticated; null if not known"
        },
    )


class OneChangeSchema(ChangeSchema):
    """A change with its row."""

    example = {
        **_CHANGE,
        "appliedBy": {"shore": False},
        "data": {"id": _CHANGE["rowId"], "version": 2, "reason": "Bearing"},
    }

    data = fields.Dict(keys=fields.String())
    applied_by = fields.Dict(
        keys=fields.String(),
        values=fields.Boolean(),
        metadata={
            "description": "for each known follower, whether it has applied this change",
            "example": {"shore": True},
        },
    )


class ChangesPageSchema(CamelSchema):
    """A page of changes."""

    example = {"items": [_CHANGE], "next": "1230"}

    items = fields.List(fields.Nested(ChangeSchema))
    next = fields.String(allow_none=True)


def _raw(description: str, *, required: bool = False, **schema: Any) -> fields.Raw:
    # Only described here; arus.protocol.requests validates them: the same for HTTP, MQTT and the command line.
    return fields.Raw(
        required=required, allow_none=not required, metadata={"description": description, **schema}
    )


class CatchupRequestSchema(CamelSchema):
    """What to send again. At most one of `since`, `sinceSeq` and `cursor`; without any: all rows."""

    example = {"entity": "all", "since": "2026-11-20T06:00:00.000Z"}

    entity = _raw('name of an entity, or "all"', required=True, type="string")
    since = _raw(
        "changes committed at or after this time; UTC if it has no zone",
        type="string",
        format="date-time",
    )
    since_seq = _raw(
        "changes after this number, in the epoch `epoch`",
        type="integer",
        minimum=0,
        maximum=2**63 - 1,
    )
    epoch = _raw("required with `sinceSeq`", type="string", maxLength=36)
    cursor = _raw(
        "`next` of an earlier catch-up of the same entity, which this one continues",
        type="string",
        maxLength=MAX_CURSOR,
    )
    limit = _raw(
        f"maximum number of items of each entity; {CATCHUP_LIMIT} by default, null for no limit",
        type="integer",
        minimum=1,
        maximum=MAX_CATCHUP_LIMIT,
    )
    mode = _raw(
        "snapshot: the rows themselves, even if the log still holds their changes;"
        " digest: no rows, but the digest of all tables, on `system/digest`",
        type="string",
        enum=["snapshot", "digest", None],
    )
    buckets = _raw(
        "only with mode snapshot: only rows in these buckets of the digest",
        type="array",
        items={"type": "integer", "minimum": 0, "maximum": BUCKETS - 1},
        minItems=1,
        maxItems=BUCKETS,
    )
    request_id = _raw(
        "the client's id for this request: the same id again returns the same catch-up",
        type="string",
        maxLength=64,
    )

    @post_load(pass_original=True)
    def as_sent(self, _data: Any, original_data: Any, **_kwargs: Any) -> Any:
        """Return the document as it was sent, for `arus.protocol.requests.read_request` to read."""
        return original_data


class CatchupQueuedSchema(CamelSchema):
    """A catch-up that was requested."""

    example = {"catchupId": _CATCHUP_ID, "status": "queued"}

    catchup_id = fields.UUID()
    status = fields.Enum(CatchupState, by_value=fields.String)


def _moment(description: str, *, allow_none: bool = True) -> fields.String:
    return fields.String(
        allow_none=allow_none, metadata={"format": "date-time", "description": description}
    )


class EntityCatchupSchema(CamelSchema):
    """The progress of the catch-up of one entity."""

    entity = fields.String(metadata={"description": "`*` for a digest, which covers all entities"})
    status = fields.Enum(CatchupState, by_value=fields.String)
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
    finished_at = _moment("null until it has ended")


class CatchupSchema(CamelSchema):
    """The progress of a catch-up."""

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
    status = fields.Enum(CatchupState, by_value=fields.String)
    published = fields.Integer(metadata={"description": "items that the broker acknowledged"})
    total = fields.Integer(
        allow_none=True, metadata={"description": "null until all entities are planned"}
    )
    reason = fields.String(allow_none=True, metadata={"description": "why it failed"})
    created_at = _moment("when it was requested", allow_none=False)
    finished_at = _moment("null until it has ended")
    entities = fields.List(fields.Nested(EntityCatchupSchema))


def _flag(description: str) -> fields.Boolean:
    return fields.Boolean(
        truthy={"true"}, falsy={"false"}, metadata={"description": description, "type": "boolean"}
    )


class FleetQuerySchema(CamelSchema):
    """Filters of a fleet."""

    q = fields.String(
        load_default="",
        validate=[validate.Length(max=MAX_SEARCH), validate.ContainsNoneOf("\0")],
        metadata={"description": "only vessels whose id contains this text"},
    )
    online = _flag("only vessels that are, or are not, online by their last status")
    equal = _flag("only vessels that the last audit found, or did not find, equal")
    audited = _flag("only vessels with, or without, an audit")
    behind = _flag("only vessels with, or without, changes that are not applied here")
    refused = _flag("only vessels with, or without, rows that can't be read or written here")
    held = _flag("only vessels with, or without, changes that wait for another row")
    fields_differ = _flag("only vessels whose tables have, or have not, other fields than here")
    limit = fields.Integer(validate=validate.Range(1, MAX_FLEET), load_default=DEFAULT_LIMIT)
    cursor = fields.String(
        validate=validate.Length(max=400), metadata={"description": "`next` of the previous page"}
    )


_VESSEL = {
    "vesselId": "imo-9321483",
    "online": True,
    "since": "2026-11-22T06:12:09.000Z",
    "epoch": "0d6a1f9e-5b1c-4a55-9b0f-6d7f0a4b1c22",
    "seq": 5118,
    "headSeq": 5120,
    "behind": 2,
    "lastHeard": "2026-11-22T08:00:00.000Z",
    "equalAt": "2026-11-22T07:40:00.000Z",
    "auditedAt": "2026-11-22T07:40:00.000Z",
    "refused": 0,
    "held": 0,
}


class FleetVesselSchema(CamelSchema):
    """A vessel that is followed, and how its copy is."""

    example = _VESSEL

    vessel_id = fields.String()
    online = fields.Boolean(
        allow_none=True, metadata={"description": "by its last status; null before the first"}
    )
    since = _moment("when it came online or went offline; null if that is not known")
    epoch = fields.String()
    seq = fields.Integer(metadata={"description": "everything up to this number is applied here"})
    head_seq = fields.Integer(
        metadata={"description": "the highest number that the vessel is known to have assigned"}
    )
    behind = fields.Integer(metadata={"description": "known changes that are not applied here"})
    last_heard = _moment(
        "when the vessel last sent something itself, which a retained message or a last will is not"
    )
    equal_at = _moment("when an audit last found the copy equal; null if none has in this epoch")
    audited_at = _moment("the last audit; null before the first in this epoch")
    refused = fields.Integer(metadata={"description": "rows that can't be read or written here"})
    held = fields.Integer(metadata={"description": "changes that wait for another row"})


class FleetPageSchema(CamelSchema):
    """A page of vessels."""

    example = {"items": [_VESSEL], "next": None}

    items = fields.List(fields.Nested(FleetVesselSchema))
    next = fields.String(allow_none=True)


class LinkSchema(CamelSchema):
    """The link to the broker, and the queue."""

    enabled = fields.Boolean(metadata={"description": "LOCAL_MODE: changes are captured"})
    status = fields.String(validate=validate.OneOf(["connected", "disconnected"]))
    reason = fields.String(
        allow_none=True,
        metadata={
            "description": "why it is not connected, or makes no progress, or what the data budget holds back"
        },
    )
    broker = fields.String(metadata={"description": "without credentials"})
    qos_level = fields.Integer()
    queued_messages = fields.Integer(metadata={"description": "undelivered changes"})
    max_queue_size = fields.Integer()
    queue_utilization = fields.String(metadata={"description": "with a percent sign"})
    active_subscriptions = fields.Integer()
    topics = fields.Integer()
    reconnect_attempts = fields.Integer()
    tls_enabled = fields.Boolean()


class DetailedMetricsSchema(CamelSchema):
    """Counters since the database was created, and the current queue."""

    messages_published = fields.Integer(metadata={"description": "acknowledged by the broker"})
    messages_queued = fields.Integer(
        metadata={"description": "committed without a connection to the broker"}
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
    generation = fields.Integer(metadata={"description": "increases by 1 at each takeover"})


class DataUsageSchema(CamelSchema):
    """The bytes sent on this day of the ship's zone, and the data budget."""

    day = fields.String(metadata={"format": "date"})
    used = fields.Integer()
    by_kind = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        metadata={"description": "bytes by what they were for: changes, catchups, keepalive, ..."},
    )
    limit = fields.Integer(allow_none=True, metadata={"description": "MQTT_DATA_BUDGET"})
    left = fields.Integer(allow_none=True, metadata={"description": "those of the reserve too"})
    reserve = fields.Integer(
        allow_none=True, metadata={"description": "bytes that are kept for urgent changes"}
    )
    resets_at = fields.String(metadata={"format": "date-time"})
    held_until = _moment("until when changes that are not urgent wait; null if they do not")
    catchups_held_until = _moment("until when catch-ups wait; null if they do not")
    waiting = fields.Integer(metadata={"description": "changes that wait for the next day"})


class HealthSchema(CamelSchema):
    """The state of the sync; the same from each worker."""

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
        "dataUsage": {
            "day": "2026-11-22",
            "used": 12_345_678,
            "byKind": {"changes": 12_000_000, "keepalive": 2_880, "statuses": 342_798},
            "limit": 20_000_000,
            "left": 7_654_322,
            "reserve": 2_000_000,
            "resetsAt": "2026-11-22T23:00:00.000Z",
            "heldUntil": None,
            "catchupsHeldUntil": None,
            "waiting": 0,
        },
    }

    service = fields.String()
    status = fields.String(
        validate=validate.OneOf(["healthy", "degraded"]),
        metadata={
            "description": "degraded while there is no connection, or while a change has waited for a minute in"
            " which nothing was acknowledged; mqtt.reason says why"
        },
    )
    timestamp = fields.String(metadata={"format": "date-time"})
    mqtt = fields.Nested(LinkSchema)
    detailed_metrics = fields.Nested(DetailedMetricsSchema)
    owner = fields.Nested(OwnerSchema, allow_none=True)
    data_usage = fields.Nested(DataUsageSchema)
