"""The tables of the change log, defined in the application's own metadata.

`arus_change` grows by one row for each change. The other tables hold few rows and record the relay's progress, so
that a delivery never has to be written to the change's own row: a change is delivered when its topic queue's
watermark has passed it (docs/architecture.md, "Watermarks, not row states").
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from sqlalchemy import (
    BLANK_SCHEMA,
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

from arus.partial_index import partial_index

#: SQLite only numbers `INTEGER PRIMARY KEY` columns itself.
_Id = BigInteger().with_variant(Integer(), "sqlite")


class Tables(Struct, frozen=True):
    """The tables of one application's change log."""

    change: Table
    topic_queue: Table
    session: Table
    counter: Table
    catchup: Table
    follower: Table
    subscription: Table
    dead_letter: Table
    conflict: Table
    proposal: Table
    sample: Table
    link_event: Table
    broker: Table
    row_version: Table
    dictionary: Table
    compressed: Table
    usage: Table
    day_count: Table
    time_mark: Table


#: Names of tables that differ from their field's name: existing databases have these names.
_NAMES = {"topic_queue": "arus_lane", "dead_letter": "arus_parked"}


def define(metadata: MetaData) -> Tables:
    """Define the tables in `metadata`, once, and return them."""
    if "arus_change" in metadata.tables:
        names = (_NAMES.get(field, f"arus_{field}") for field in Tables.__struct_fields__)
        return Tables(*(metadata.tables[name] for name in names))
    return Tables(
        _change(metadata),
        _topic_queue(metadata),
        _session(metadata),
        _counter(metadata),
        _catchup(metadata),
        _follower(metadata),
        _subscription(metadata),
        _dead_letter(metadata),
        _conflict(metadata),
        _proposal(metadata),
        _sample(metadata),
        _link_event(metadata),
        _broker(metadata),
        _row_version(metadata),
        _dictionary(metadata),
        _compressed(metadata),
        _usage(metadata),
        _day_count(metadata),
        _time_mark(metadata),
    )


def own_table(name: str, metadata: MetaData, *items: Any, **options: Any) -> Table:
    """Define a table of the sync: in the default schema, whatever schema the application's tables are in."""
    return Table(name, metadata, *items, schema=BLANK_SCHEMA, **options)


def _change(metadata: MetaData) -> Table:
    return own_table(
        "arus_change",
        metadata,
        # AUTOINCREMENT: without it, ids restart at 1 once the table is empty.
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
        # Assigned by the owner, after the commit.
        Column("seq", BigInteger),
        Column("previous_seq", BigInteger),
        # quarantined, superseded or dropped; NULL for all others.
        Column("outcome", String(12)),
        Column("reason", Text),
        # Who made the change, as the application says; NULL if it does not.
        Column("actor", String(100)),
        Index("ix_arus_change_message_id", "message_id", unique=True),
        # Partial, so that a commit does not have to write a page of this index for an entry without a number.
        partial_index(
            "ix_arus_change_lane", "topic", "seq", where=text("seq IS NOT NULL"), unique=True
        ),
        Index("ix_arus_change_row", "entity", "row_id", "id"),
        partial_index(
            "ix_arus_change_unnumbered", "id", where=text("seq IS NULL AND outcome IS NULL")
        ),
        partial_index("ix_arus_change_deleted", "topic", "seq", where=text("operation = 'delete'")),
        partial_index("ix_arus_change_outcome", "outcome", "id", where=text("outcome IS NOT NULL")),
        sqlite_autoincrement=True,
    )


def _topic_queue(metadata: MetaData) -> Table:
    return own_table(
        "arus_lane",
        metadata,
        Column("topic", String(128), primary_key=True),
        # Highest seq numbered on this topic: the previousSeq of the next.
        Column("head_seq", BigInteger, nullable=False, server_default="0"),
        # All changes up to this number may have been sent: written before the PUBLISH that it permits.
        Column("sent_seq", BigInteger, nullable=False, server_default="0"),
        # All up to this number have a PUBREC: written before the PUBREL that it permits.
        Column("received_seq", BigInteger, nullable=False, server_default="0"),
        # All up to this number are acknowledged, or have another outcome.
        Column("acked_seq", BigInteger, nullable=False, server_default="0"),
        # JSON arrays of the numbers above the watermark that were reached out of order.
        Column("received_above", Text, nullable=False, server_default="[]"),
        Column("acked_above", Text, nullable=False, server_default="[]"),
        # Changes that are numbered, not acknowledged, and have no other outcome.
        Column("depth", BigInteger, nullable=False, server_default="0"),
        # When the broker last acknowledged a change, in milliseconds since the epoch.
        Column("acked_at", BigInteger),
    )


def _session(metadata: MetaData) -> Table:
    return own_table(
        "arus_session",
        metadata,
        # One row, id 1.
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", String(36), nullable=False),
        Column("vessel_id", String(64), nullable=False),
        Column("head_seq", BigInteger, nullable=False, server_default="0"),
        # How far the log reaches back: by number (all above it are there), and by time in milliseconds; -1
        # until it was checked whether the tables had rows before the log.
        Column("pruned_seq", BigInteger, nullable=False, server_default="0"),
        Column("complete_since", BigInteger, nullable=False, server_default="-1"),
        # Raised at each takeover; each write of an owner checks that it is unchanged.
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
        # Since when the connection is stalled: messages wait, and nothing is acknowledged; and why the broker
        # refuses messages for the moment. NULL if that is not so.
        Column("stalled_since", BigInteger),
        Column("obstacle", Text),
        # Another vessel that publishes under the same prefix, and when its status was last received.
        Column("neighbour", String(64)),
        Column("neighbour_at", BigInteger),
        # When an epoch was last begun because the broker or a follower has proved that this database was restored; in
        # milliseconds since the epoch.
        Column("claimed_at", BigInteger),
        # What a person is told about the last such proof, believed or not, and when that was.
        Column("epoch_note", Text),
        Column("epoch_noted_at", BigInteger),
        # Until when the data budget holds back changes that are not urgent, and catch-ups; in milliseconds since the
        # epoch. NULL or past if it does not.
        Column("held_until", BigInteger),
        Column("catchups_until", BigInteger),
    )


def _counter(metadata: MetaData) -> Table:
    return own_table(
        "arus_counter",
        metadata,
        Column("name", String(64), primary_key=True),
        Column("entity_type", String(64), primary_key=True),
        Column("operation", String(6), primary_key=True),
        Column("qos", String(4), primary_key=True),
        Column("value", BigInteger, nullable=False, server_default="0"),
    )


def _catchup(metadata: MetaData) -> Table:
    return own_table(
        "arus_catchup",
        metadata,
        # One row for each entity of a catch-up; the owner sends them in this order.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("catchup_id", String(36), nullable=False),
        # Set by the requester (MQTT): a request that arrives twice is queued once.
        Column("request_id", String(64)),
        # http, cli, mqtt or repair.
        Column("origin", String(8), nullable=False),
        Column("entity", String(64), nullable=False),
        Column("topic", String(128), nullable=False),
        # Who asked over MQTT, by its own account; whose turn it uses: its name if it is a known follower, or the origin.
        Column("consumer", String(64)),
        Column("requester", String(72)),
        # Items that may be sent beyond those that the consumer has reported as received; NULL for no limit.
        Column("receive_window", BigInteger),
        Column("received", BigInteger, nullable=False, server_default="0"),
        # queued, running, complete or failed.
        Column("status", String(8), nullable=False),
        # The request: where to begin, the maximum number of items, the buckets of rows. All NULL: everything.
        Column("since_at", BigInteger),
        Column("since_seq", BigInteger),
        Column("since_epoch", String(36)),
        Column("cursor", Text),
        Column("item_limit", BigInteger),
        Column("buckets", Text),
        Column("wants_snapshot", Boolean, nullable=False, server_default=text("false")),
        # Decided by the owner when it begins: log, snapshot, repair or must_refetch.
        Column("mode", String(12)),
        Column("high_seq", BigInteger, nullable=False, server_default="0"),
        Column("total", BigInteger),
        # Position after the last acknowledged item, where a run continues after a crash.
        Column("position", Text, nullable=False, server_default=""),
        Column("published", BigInteger, nullable=False, server_default="0"),
        # The changes that a repair stands for: JSON, ranges of the number before and the last number.
        Column("covers", Text),
        # Digest of the items acknowledged so far.
        Column("digest", String(64), nullable=False, server_default=""),
        # The cursor to continue after the limit.
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
    return own_table(
        "arus_follower",
        metadata,
        # What each follower has reported about itself on `watermarks/<name>`.
        Column("name", String(64), primary_key=True),
        Column("epoch", String(36), nullable=False),
        # It has durably applied all changes up to this number.
        Column("seq", BigInteger, nullable=False),
        # By the follower's clock, and by ours.
        Column("reported_at", BigInteger),
        Column("received_at", BigInteger, nullable=False),
        # Its last comparison with our digest.
        Column("audit_seq", BigInteger),
        Column("audit_equal", Boolean),
        Column("audit_at", BigInteger),
        Column("audit_detail", Text),
    )


def _subscription(metadata: MetaData) -> Table:
    return own_table(
        "arus_subscription",
        metadata,
        # The subscriptions in the broker's half of the session.
        Column("topic_filter", String(512), primary_key=True),
        Column("qos", SmallInteger, nullable=False),
    )


def _dead_letter(metadata: MetaData) -> Table:
    return own_table(
        "arus_parked",
        metadata,
        # Inbound messages that can't be handled; a person replays or discards them.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("topic", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("topic_filter", String(512), nullable=False),
        Column("reason", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("parked_at", BigInteger, nullable=False),
        # Ashore: the vessel that has sent it; empty if it is not known.
        Column("vessel_id", String(64), nullable=False, server_default=""),
        # For deleting the oldest of one subscription and vessel.
        Index("ix_arus_parked_filter", "topic_filter", "vessel_id", "id"),
        sqlite_autoincrement=True,
    )


def _conflict(metadata: MetaData) -> Table:
    return own_table(
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
    return own_table(
        "arus_proposal",
        metadata,
        # A change that one side proposes to the vessel that owns the row.
        Column("proposal_id", String(64), primary_key=True),
        Column("vessel_id", String(64), nullable=False),
        Column("entity", String(64), nullable=False),
        Column("row_id", String(64), nullable=False),
        Column("operation", String(6), nullable=False),
        # The version that the proposal is based on, and the proposer's own version.
        Column("base_version", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
        # The row as proposed, JSON; NULL once it is answered or withdrawn.
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
    return own_table(
        "arus_sample",
        metadata,
        # A minute with activity: its beginning, in milliseconds.
        Column("minute", BigInteger, primary_key=True, autoincrement=False),
        # Undelivered changes at its end, and changes acknowledged in it.
        Column("depth", BigInteger, nullable=False),
        Column("published", BigInteger, nullable=False),
        # Bytes that were sent since the sample before it.
        Column("sent", BigInteger, nullable=False, server_default="0"),
    )


def _link_event(metadata: MetaData) -> Table:
    return own_table(
        "arus_link_event",
        metadata,
        # Each time the link went up or down.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("at", BigInteger, nullable=False),
        Column("connected", Boolean, nullable=False),
        Column("reason", Text),
        Column("generation", BigInteger, nullable=False),
        Index("ix_arus_link_event_at", "at"),
        sqlite_autoincrement=True,
    )


def _broker(metadata: MetaData) -> Table:
    return own_table(
        "arus_broker",
        metadata,
        # As in the settings, without credentials.
        Column("address", String(512), primary_key=True),
        # The version of MQTT that it was found to speak, and when that was detected.
        Column("version", String(8)),
        Column("version_at", BigInteger),
        # How many QoS 2 handshakes it accepts at a time on MQTT 3.1.1, how many bytes of payload may be open in
        # addition to one more message, and when that was detected.
        Column("handshakes", BigInteger),
        Column("handshakes_size", BigInteger),
        Column("handshakes_at", BigInteger),
        # It answers QoS 2 with PUBACK.
        Column("lowers_qos", Boolean, nullable=False, server_default=text("false")),
        # The highest QoS that it was found to support, and when that was detected.
        Column("max_qos", SmallInteger),
        Column("max_qos_at", BigInteger),
        # It has retained messages.
        Column("retains", Boolean, nullable=False, server_default=text("true")),
    )


def _row_version(metadata: MetaData) -> Table:
    return own_table(
        "arus_row_version",
        metadata,
        # The version of each logged row whose model has no version column. A deleted row keeps its own: a row that
        # gets the key later goes on from it.
        Column("entity", String(64), primary_key=True),
        Column("row_id", String(64), primary_key=True),
        Column("version", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _dictionary(metadata: MetaData) -> Table:
    return own_table(
        "arus_dictionary",
        metadata,
        # The dictionaries that messages are compressed with, in zstd's format.
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("content", LargeBinary, nullable=False),
        # When it was made, and when it was last compared with a newer one; in milliseconds since the epoch.
        Column("created_at", BigInteger, nullable=False),
        Column("checked_at", BigInteger, nullable=False),
        # The log's last number when it was made.
        Column("created_seq", BigInteger, nullable=False),
        # The broker holds it.
        Column("acknowledged", Boolean, nullable=False, server_default=text("false")),
        # When a newer one took its place, and the log's last number then; NULL for the current one.
        Column("retired_at", BigInteger),
        Column("retired_seq", BigInteger),
    )


def _compressed(metadata: MetaData) -> Table:
    return own_table(
        "arus_compressed",
        metadata,
        # How the changes of a topic are sent, from a number on.
        Column("topic", String(128), primary_key=True),
        Column("from_seq", BigInteger, primary_key=True, autoincrement=False),
        # Id of the dictionary; 0 for a frame without one, NULL for plain JSON.
        Column("dictionary", BigInteger),
    )


def _usage(metadata: MetaData) -> Table:
    return own_table(
        "arus_usage",
        metadata,
        # The bytes that were sent on a day (ISO 8601, in the ship's zone), by what they are for.
        Column("day", String(10), primary_key=True),
        Column("kind", String(16), primary_key=True),
        Column("sent", BigInteger, nullable=False),
    )


def _day_count(metadata: MetaData) -> Table:
    return own_table(
        "arus_day_count",
        metadata,
        # What the counters stood at when a day ended (ISO 8601, in the ship's zone), for the days on which something
        # happened; of the present day, what they stood at last. The day '' is before the first one.
        Column("day", String(10), primary_key=True),
        Column("name", String(64), primary_key=True),
        Column("value", BigInteger, nullable=False),
    )


def _time_mark(metadata: MetaData) -> Table:
    return own_table(
        "arus_time_mark",
        metadata,
        # All changes of the log up to this number were committed at or before this time, in milliseconds since the
        # epoch.
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("highest_at", BigInteger, nullable=False),
        Index("ix_arus_time_mark_highest_at", "highest_at", "seq"),
    )
