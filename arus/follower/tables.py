"""The follower's tables, in the application's metadata next to the rows that they describe."""

from __future__ import annotations

from msgspec import Struct
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

from arus.outbox.tables import own_table
from arus.partial_index import partial_index

#: SQLite only numbers `INTEGER PRIMARY KEY` columns itself.
_Id = BigInteger().with_variant(Integer(), "sqlite")


class Tables(Struct, frozen=True):
    """The tables of one follower."""

    vessel: Table
    position: Table
    row: Table
    compared: Table
    handed_over: Table
    held: Table
    refused: Table
    follow_link: Table
    follow_dictionary: Table
    vessel_event: Table
    partitioning: Table
    partition: Table
    vessel_partition: Table
    unused_session: Table


def define(metadata: MetaData) -> Tables:
    """Define the tables in `metadata`, once, and return them."""
    if "arus_vessel" in metadata.tables:
        return Tables(*(metadata.tables[f"arus_{name}"] for name in Tables.__struct_fields__))
    tables = (
        _vessel, _position, _row, _compared, _handed_over, _held, _refused, _follow_link,
        _follow_dictionary,
        _vessel_event,
        _partitioning, _partition, _vessel_partition, _unused_session,
    )  # fmt: skip
    return Tables(*(table(metadata) for table in tables))


def _vessel(metadata: MetaData) -> Table:
    return own_table(
        "arus_vessel",
        metadata,
        # A vessel that is followed.
        Column("vessel_id", String(64), primary_key=True),
        Column("epoch", String(36), nullable=False),
        # Epochs that have ended, newest last: JSON. Messages of these epochs are late.
        Column("past_epochs", Text, nullable=False, server_default="[]"),
        # Everything up to `seq` is applied; `above` has the ranges applied above it, JSON.
        Column("seq", BigInteger, nullable=False, server_default="0"),
        Column("above", Text, nullable=False, server_default="[]"),
        # The highest number that the vessel is known to have assigned.
        Column("head_seq", BigInteger, nullable=False, server_default="0"),
        # From its last status; NULL before the first.
        Column("online", Boolean),
        Column("pending", BigInteger),
        Column("heard_at", BigInteger, nullable=False),
        # Commit time of the last change that was applied.
        Column("changed_at", BigInteger),
        # The result of the last comparison with the vessel's digest, JSON.
        Column("audit", Text),
        # The head that the vessel has reported, if it is below what is proved here: it may have been restored.
        Column("ahead_of", BigInteger),
        # A catch-up that was requested of it has ended: it is no invention.
        Column("proven", Boolean, nullable=False, server_default=text("false")),
        # When `online` last changed; NULL if that is not known.
        Column("online_since", BigInteger),
        # When the vessel last sent something itself: no last will, and not a message that the broker had kept.
        Column("spoke_at", BigInteger),
        # Since when numbers up to `head_seq` are missing here; NULL if none is.
        Column("behind_since", BigInteger),
        # The time of `audit`, and of the last audit of this epoch that found the copy equal.
        Column("audited_at", BigInteger),
        Column("equal_at", BigInteger),
    )


def _position(metadata: MetaData) -> Table:
    return own_table(
        "arus_position",
        metadata,
        # How far one topic of one vessel is applied.
        Column("vessel_id", String(64), primary_key=True),
        Column("topic", String(128), primary_key=True),
        Column("seq", BigInteger, nullable=False, server_default="0"),
        # The number up to which `seq` is proved, by a requested catch-up or by an audit.
        Column("proven_seq", BigInteger, nullable=False, server_default="0"),
        # Unbroken runs applied beyond gaps: JSON, pairs of the number before the run and its last number.
        Column("beyond", Text, nullable=False, server_default="[]"),
        # What has to be requested, apart from gaps: changes, everything, snapshot or rows.
        Column("need", String(12), nullable=False, server_default=""),
        Column("buckets", Text, nullable=False, server_default="[]"),
        # The requested catch-up, and the catch-up that is being received, JSON.
        Column("request", Text),
        Column("run", Text),
        # Incremented with each snapshot: rows with this mark were in that snapshot.
        Column("mark", BigInteger, nullable=False, server_default="0"),
        # The sweep at the end of the last snapshot, if it waits for a digest of the vessel: JSON.
        Column("sweep", Text),
    )


def _row(metadata: MetaData) -> Table:
    return own_table(
        "arus_row",
        metadata,
        # The record of each row; a deleted row keeps its version. A row that was found ashore but that no vessel
        # has sent has the version -1.
        Column("vessel_id", String(64), primary_key=True),
        Column("entity", String(64), primary_key=True),
        Column("row_id", String(64), primary_key=True),
        Column("version", BigInteger, nullable=False),
        # The last change that was applied to it.
        Column("seq", BigInteger, nullable=False),
        Column("deleted", Boolean, nullable=False, server_default=text("false")),
        # The hash of `data` as received (arus.protocol.digests); empty for a deleted row.
        Column("hash", String(64), nullable=False, server_default=""),
        Column("bucket", SmallInteger, nullable=False),
        Column("mark", BigInteger, nullable=False, server_default="0"),
        # The vessel that owns the row ashore, if it is another one: then this vessel's changes are recorded but
        # not applied. Empty if the row is this vessel's own.
        Column("owner", String(64), nullable=False, server_default=""),
        # For looking up a row's owner without knowing the vessel.
        Index("ix_arus_row_entity_row", "entity", "row_id"),
        partial_index(
            "ix_arus_row_claims", "owner", "vessel_id", "entity", where=text("owner <> ''")
        ),
        sqlite_with_rowid=False,
    )


def _compared(metadata: MetaData) -> Table:
    return own_table(
        "arus_compared",
        metadata,
        # How a vessel's rows are compared, by entity.
        Column("vessel_id", String(64), primary_key=True),
        Column("entity", String(64), primary_key=True),
        # The fields that the hashes in arus_row are made over: JSON; NULL for all.
        Column("fields", Text),
        # What one side lacks, JSON; NULL if nothing.
        Column("difference", Text),
    )


def _handed_over(metadata: MetaData) -> Table:
    return own_table(
        "arus_handed_over",
        metadata,
        # A vessel that has handed all its rows over: what the broker has kept of it is ignored.
        Column("vessel_id", String(64), primary_key=True),
        Column("receiver", String(64), nullable=False),
        Column("at", BigInteger, nullable=False),
    )


def _held(metadata: MetaData) -> Table:
    return own_table(
        "arus_held",
        metadata,
        # Changes that the database does not accept yet: a row that they refer to has not arrived.
        Column("vessel_id", String(64), primary_key=True),
        Column("entity", String(64), primary_key=True),
        Column("row_id", String(64), primary_key=True),
        Column("version", BigInteger, nullable=False),
        Column("seq", BigInteger, nullable=False),
        Column("operation", String(6), nullable=False),
        Column("data", LargeBinary, nullable=False),
        Column("mark", BigInteger, nullable=False, server_default="0"),
        Column("reason", Text, nullable=False),
        Column("held_at", BigInteger, nullable=False),
        # The rows that it waits for (arus.follower.held.row_name), a line each; empty if they are not known.
        Column("waits_for", Text, nullable=False, server_default=""),
        # How often it was tried again, and when it is next.
        Column("tries", Integer, nullable=False, server_default="0"),
        Column("next_at", BigInteger, nullable=False, server_default="0"),
    )


def _refused(metadata: MetaData) -> Table:
    return own_table(
        "arus_refused",
        metadata,
        # Rows that can't be read or written here; each counts as received, and is not requested again.
        Column("vessel_id", String(64), primary_key=True),
        Column("entity", String(64), primary_key=True),
        # The row's id, or a hash of one that is not valid; empty for rows that did not arrive at all.
        Column("row_key", String(64), primary_key=True),
        # The id as it can be shown.
        Column("row_id", Text, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("seq", BigInteger, nullable=False),
        # The hash of its content; empty if that can't be read.
        Column("hash", String(64), nullable=False),
        Column("bucket", SmallInteger, nullable=False),
        Column("reason", Text, nullable=False),
        Column("refused_at", BigInteger, nullable=False),
    )


def _follow_link(metadata: MetaData) -> Table:
    return own_table(
        "arus_follow_link",
        metadata,
        # The connection of a follower, by its name.
        Column("name", String(64), primary_key=True),
        Column("connected", Boolean, nullable=False),
        # Why there is none, or why the last attempt failed; while there is one, what the broker refuses to take.
        Column("reason", Text),
        Column("changed_at", BigInteger, nullable=False),
        # The filters that the broker has subscribed this follower to, JSON.
        Column("filters", Text),
        # Vessels that are not followed, because vessels that share one prefix can't be told apart: JSON, the time of
        # the last message by vessel.
        Column("refused", Text),
    )


def _follow_dictionary(metadata: MetaData) -> Table:
    return own_table(
        "arus_follow_dictionary",
        metadata,
        # The dictionaries that vessels compress their messages with, by vessel; an empty id if all share a prefix.
        Column("vessel_id", String(64), primary_key=True),
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("content", LargeBinary, nullable=False),
        Column("received_at", BigInteger, nullable=False),
    )


def _vessel_event(metadata: MetaData) -> Table:
    return own_table(
        "arus_vessel_event",
        metadata,
        # The latest events of each vessel, for people: audits, catch-ups, when it came and went.
        Column("id", _Id, primary_key=True, autoincrement=True),
        Column("vessel_id", String(64), nullable=False),
        Column("at", BigInteger, nullable=False),
        # audit, catchup, epoch, online or offline.
        Column("kind", String(8), nullable=False),
        # Of a catch-up.
        Column("entity", String(64), nullable=False, server_default=""),
        Column("seq", BigInteger),
        # Items of a catch-up.
        Column("items", BigInteger),
        # The result of an audit; the entities that differ, separated by commas.
        Column("equal", Boolean),
        Column("differing", Text),
        Index("ix_arus_vessel_event_vessel", "vessel_id", "id"),
        sqlite_autoincrement=True,
    )


def _partitioning(metadata: MetaData) -> Table:
    return own_table(
        "arus_partitioning",
        metadata,
        # The vessels are followed in partitions: one row, with the id 1; none where they are not.
        Column("id", SmallInteger, primary_key=True, autoincrement=False),
        # The follower's name, and the number of partitions.
        Column("name", String(64), nullable=False),
        Column("partitions", Integer, nullable=False),
        # Raised with each change of arus_vessel_partition.
        Column("version", BigInteger, nullable=False, server_default="0"),
    )


def _partition(metadata: MetaData) -> Table:
    return own_table(
        "arus_partition",
        metadata,
        # The process that holds a partition's lock, or was the last to hold it.
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("host", String(255), nullable=False),
        Column("pid", Integer, nullable=False),
        Column("since", BigInteger, nullable=False),
        # How often it was taken.
        Column("taken", BigInteger, nullable=False, server_default="1"),
    )


def _vessel_partition(metadata: MetaData) -> Table:
    return own_table(
        "arus_vessel_partition",
        metadata,
        # The partition of each vessel, from the moment that its first status is received.
        Column("vessel_id", String(64), primary_key=True),
        Column("number", Integer, nullable=False),
        # That status, for a broker that does not send retained messages to the partition; NULL if it is long.
        Column("status", Text),
        Column("placed_at", BigInteger, nullable=False),
    )


def _unused_session(metadata: MetaData) -> Table:
    return own_table(
        "arus_unused_session",
        metadata,
        # A session that the broker still keeps and that nobody uses any more, to be ended.
        Column("client_id", String(128), primary_key=True),
    )
