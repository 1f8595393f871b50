"""The tables of the change log, defined in the application's own metadata.

`arus_change` grows by one row a change; the others hold a handful of rows each and say how far the relay
has come, so that a change's delivery never has to be written to its own row: a change is delivered when its
lane's watermark has passed it (docs/architecture.md, "Watermarks, not row states").
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

#: SQLite only numbers `INTEGER PRIMARY KEY` columns itself.
_Id = BigInteger().with_variant(Integer(), "sqlite")


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one application's change log."""

    change: Table
    lane: Table
    session: Table
    counter: Table
    catchup: Table
    follower: Table
    subscription: Table
    parked: Table
    conflict: Table
    proposal: Table
    sample: Table
    link_event: Table
    broker: Table


def define(metadata: MetaData) -> Tables:
    """Define the tables in `metadata`, once, and return them."""
    if "arus_change" in metadata.tables:
        return Tables(*(metadata.tables[f"arus_{field.name}"] for field in fields(Tables)))
    return Tables(
        _change(metadata),
        _lane(metadata),
        _session(metadata),
        _counter(metadata),
        _catchup(metadata),
        _follower(metadata),
        _subscription(metadata),
        _parked(metadata),
        _conflict(metadata),
        _proposal(metadata),
        _sample(metadata),
        _link_event(metadata),
        _broker(metadata),
    )


def _change(metadata: MetaData) -> Table:
    unnumbered = text("seq IS NULL AND outcome IS NULL")
    # Whoever commits a change is spared the page that an entry without a number would take.
    numbered = text("seq IS NOT NULL")
    settled_otherwise = text("outcome IS NOT NULL")
    deleted = text("operation = 'delete'")
    return Table(
        "arus_change",
        metadata,
        # AUTOINCREMENT: a plain rowid restarts at 1 once the table has been emptied.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("message_id", String(40), nullable=False),
        Column("entity", String(64), nullable=False),
        Column("topic", String(128), nullable=False),
        Column("qos", SmallInteger, nullable=False),
        Column("operation", String(6), nullable=False),
        Column("row_id", String(64), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("committed_at", BigInteger, nullable=False),
        Column("data", LargeBinary, nullable=False),
        # Given by the owner, after the commit.
        Column("seq", BigInteger),
        Column("previous_seq", BigInteger),
        # quarantined, superseded or dropped; NULL for all that flows.
        Column("outcome", String(12)),
        Column("reason", Text),
        Index("ix_arus_change_message_id", "message_id", unique=True),
        Index(
            "ix_arus_change_lane",
            "topic",
            "seq",
            unique=True,
            sqlite_where=numbered,
            postgresql_where=numbered,
        ),
        Index("ix_arus_change_row", "entity", "row_id", "id"),
        Index(
            "ix_arus_change_unnumbered", "id", sqlite_where=unnumbered, postgresql_where=unnumbered
        ),
        Index(
            "ix_arus_change_deleted",
            "topic",
            "seq",
            sqlite_where=deleted,
            postgresql_where=deleted,
        ),
        Index(
            "ix_arus_change_outcome",
            "outcome",
            "id",
            sqlite_where=settled_otherwise,
            postgresql_where=settled_otherwise,
        ),
        sqlite_autoincrement=True,
    )


def _lane(metadata: MetaData) -> Table:
    return Table(
        "arus_lane",
        metadata,
        Column("topic", String(128), primary_key=True),
        # Highest seq numbered on this topic: the previousSeq of the next.
        Column("head_seq", BigInteger, nullable=False, server_default="0"),
        # All up to here may be on the wire: written before the PUBLISH it licenses.
        Column("sent_seq", BigInteger, nullable=False, server_default="0"),
        # All up to here have a PUBREC: written before the PUBREL it licenses.
        Column("received_seq", BigInteger, nullable=False, server_default="0"),
        # All up to here are settled: acknowledged, or given another outcome.
        Column("acked_seq", BigInteger, nullable=False, server_default="0"),
        # JSON arrays of what came out of order, above the watermark.
        Column("received_above", Text, nullable=False, server_default="[]"),
        Column("acked_above", Text, nullable=False, server_default="[]"),
        # Numbered and not settled.
        Column("depth", BigInteger, nullable=False, server_default="0"),
        # When the broker acknowledged something last, in milliseconds since the epoch.
        Column("acked_at", BigInteger),
    )


def _session(metadata: MetaData) -> Table:
    return Table(
        "arus_session",
        metadata,
        # One row, id 1.
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", String(36), nullable=False),
        Column("vessel_id", String(64), nullable=False),
        Column("head_seq", BigInteger, nullable=False, server_default="0"),
        # The log reaches back to here: by number (all above is there), and by time in milliseconds; -1
        # until somebody has looked whether there were rows before the log.
        Column("pruned_seq", BigInteger, nullable=False, server_default="0"),
        Column("complete_since", BigInteger, nullable=False, server_default="-1"),
        # Raised at each takeover; each write of an owner checks that it still holds.
        Column("generation", BigInteger, nullable=False, server_default="0"),
        Column("owner_pid", Integer),
        Column("owner_host", String(255)),
        Column("owner_since", BigInteger),
        Column("connected", Boolean, nullable=False, server_default=text("false")),
        Column("connected_changed_at", BigInteger),
        Column("protocol", String(8)),
        Column("reconnect_attempts", BigInteger, nullable=False, server_default="0"),
        # The broker's half of the session is stale: begin the next one with a clean start.
        Column("clean_start", Boolean, nullable=False, server_default=text("false")),
        # Why there is no connection; NULL while there is one.
        Column("reason", Text),
    )


def _counter(metadata: MetaData) -> Table:
    return Table(
        "arus_counter",
        metadata,
        Column("name", String(64), primary_key=True),
        Column("entity_type", String(64), primary_key=True),
        Column("operation", String(6), primary_key=True),
        Column("qos", String(1), primary_key=True),
        Column("value", BigInteger, nullable=False, server_default="0"),
    )


def _catchup(metadata: MetaData) -> Table:
    return Table(
        "arus_catchup",
        metadata,
        # One row for each entity of a catch-up; the owner expands them in this order.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("catchup_id", String(36), nullable=False),
        # Given by whoever asked over MQTT: a request that comes twice is one.
        Column("request_id", String(64)),
        # http, cli, mqtt or repair.
        Column("origin", String(8), nullable=False),
        Column("entity", String(64), nullable=False),
        Column("topic", String(128), nullable=False),
        # queued, running, complete or failed.
        Column("status", String(8), nullable=False),
        # What is asked for: where it begins (a time, or a number and its epoch, or a cursor), how many
        # items at most, and which buckets of rows alone. All NULL: everything.
        Column("since_at", BigInteger),
        Column("since_seq", BigInteger),
        Column("since_epoch", String(36)),
        Column("cursor", Text),
        Column("item_limit", BigInteger),
        Column("buckets", Text),
        Column("wants_snapshot", Boolean, nullable=False, server_default=text("false")),
        # Planned by the owner when it begins: log, snapshot, repair or must_refetch.
        Column("mode", String(12)),
        Column("high_seq", BigInteger, nullable=False, server_default="0"),
        Column("total", BigInteger),
        # Behind the last item that was acknowledged: where a run goes on after a crash.
        Column("position", Text, nullable=False, server_default=""),
        Column("published", BigInteger, nullable=False, server_default="0"),
        # Over the items acknowledged so far.
        Column("digest", String(64), nullable=False, server_default=""),
        # The cursor that continues where the limit stopped.
        Column("next_cursor", Text),
        Column("reason", Text),
        Column("created_at", BigInteger, nullable=False),
        Column("finished_at", BigInteger),
        Index("ix_arus_catchup_catchup_id", "catchup_id", "entity", unique=True),
        Index("ix_arus_catchup_request_id", "request_id", "entity", unique=True),
        Index("ix_arus_catchup_status", "status", "id"),
        sqlite_autoincrement=True,
    )


def _follower(metadata: MetaData) -> Table:
    return Table(
        "arus_follower",
        metadata,
        # What each consumer has told of itself on `watermarks/<name>`.
        Column("name", String(64), primary_key=True),
        Column("epoch", String(36), nullable=False),
        # All up to here is durably applied there.
        Column("seq", BigInteger, nullable=False),
        # By the consumer's clock, and by ours.
        Column("reported_at", BigInteger),
        Column("received_at", BigInteger, nullable=False),
        # Its last comparison with our digest.
        Column("audit_seq", BigInteger),
        Column("audit_equal", Boolean),
        Column("audit_at", BigInteger),
        Column("audit_detail", Text),
    )


def _subscription(metadata: MetaData) -> Table:
    return Table(
        "arus_subscription",
        metadata,
        # What the broker's half of the session holds.
        Column("topic_filter", String(512), primary_key=True),
        Column("qos", SmallInteger, nullable=False),
    )


def _parked(metadata: MetaData) -> Table:
    return Table(
        "arus_parked",
        metadata,
        # Inbound messages that their handler failed on; a person replays or discards them.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("topic", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("topic_filter", String(512), nullable=False),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("parked_at", BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )


def _conflict(metadata: MetaData) -> Table:
    return Table(
        "arus_conflict",
        metadata,
        Column("id", _Id, primary_key=True, autoincrement=True),
        # The proposal that met another version of its row.
        Column("conflict_id", String(64), nullable=False),
        Column("entity", String(64), nullable=False),
        Column("row_id", String(64), nullable=False),
        # local or remote.
        Column("winner", String(8), nullable=False),
        Column("rule", String(64), nullable=False),
        Column("at", BigInteger, nullable=False),
        # The report as it is published, JSON.
        Column("report", LargeBinary, nullable=False),
        Index("ix_arus_conflict_conflict_id", "conflict_id", unique=True),
        sqlite_autoincrement=True,
    )


def _proposal(metadata: MetaData) -> Table:
    return Table(
        "arus_proposal",
        metadata,
        # A change that one side proposes to the vessel that owns the row.
        Column("proposal_id", String(64), primary_key=True),
        Column("vessel_id", String(64), nullable=False),
        Column("entity", String(64), nullable=False),
        Column("row_id", String(64), nullable=False),
        Column("operation", String(6), nullable=False),
        # What the proposer had before, and calls its own.
        Column("base_version", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
        # The row as proposed, JSON; NULL once it is settled.
        Column("data", LargeBinary),
        Column("origin", String(64), nullable=False),
        Column("at", BigInteger, nullable=False),
        # On the proposer's side pending, answered or withdrawn; on the vessel's applied or kept.
        Column("state", String(9), nullable=False),
        Column("sent_at", BigInteger),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("settled_at", BigInteger),
        Index("ix_arus_proposal_state", "state", "entity", "row_id"),
    )


def _sample(metadata: MetaData) -> Table:
    return Table(
        "arus_sample",
        metadata,
        # A minute in which something moved: milliseconds at its beginning.
        Column("minute", BigInteger, primary_key=True, autoincrement=False),
        # Undelivered changes at its end, and changes acknowledged in it.
        Column("depth", BigInteger, nullable=False),
        Column("published", BigInteger, nullable=False),
    )


def _link_event(metadata: MetaData) -> Table:
    return Table(
        "arus_link_event",
        metadata,
        # Each time the link came or went.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("at", BigInteger, nullable=False),
        Column("connected", Boolean, nullable=False),
        Column("reason", Text),
        Column("generation", BigInteger, nullable=False),
        Index("ix_arus_link_event_at", "at"),
        sqlite_autoincrement=True,
    )


def _broker(metadata: MetaData) -> Table:
    return Table(
        "arus_broker",
        metadata,
        # As the settings have it, without credentials.
        Column("address", String(512), primary_key=True),
        # The version of MQTT that it was found to speak, and when.
        Column("version", String(8)),
        Column("version_at", BigInteger),
        # QoS 2 handshakes that it takes at a time by MQTT 3.1.1, the bytes of payload beside one more, and when
        # that was found.
        Column("handshakes", BigInteger),
        Column("handshakes_size", BigInteger),
        Column("handshakes_at", BigInteger),
        # It answers QoS 2 with PUBACK.
        Column("lowers_qos", Boolean, nullable=False, server_default=text("false")),
    )
