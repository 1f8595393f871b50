"""The follower's tables, in the application's own metadata beside the rows that they speak of."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)


def define(metadata: MetaData) -> None:
    """Define the tables in `metadata`, once."""
    if "arus_vessel" in metadata.tables:
        return
    _vessel(metadata)
    _position(metadata)
    _row(metadata)
    _held(metadata)


def _vessel(metadata: MetaData) -> None:
    Table(
        "arus_vessel",
        metadata,
        # A vessel that is followed.
        Column("vessel_id", String(64), primary_key=True),
        Column("epoch", String(36), nullable=False),
        # Epochs that have ended, newest last: JSON. What still speaks of them is late.
        Column("past_epochs", Text, nullable=False, server_default="[]"),
        # All up to here is applied; and what is applied above it: JSON, ranges.
        Column("seq", BigInteger, nullable=False, server_default="0"),
        Column("above", Text, nullable=False, server_default="[]"),
        # The highest number that the vessel is known to have given out.
        Column("head_seq", BigInteger, nullable=False, server_default="0"),
        # From its last status; NULL before the first.
        Column("online", Boolean),
        Column("pending", BigInteger),
        Column("heard_at", BigInteger, nullable=False),
        # Commit time of the last change that was applied.
        Column("changed_at", BigInteger),
        # The last comparison with the vessel's digest, JSON.
        Column("audit", Text),
    )


def _position(metadata: MetaData) -> None:
    Table(
        "arus_position",
        metadata,
        # How far one topic of one vessel is applied.
        Column("vessel_id", String(64), primary_key=True),
        Column("topic", String(128), primary_key=True),
        Column("seq", BigInteger, nullable=False, server_default="0"),
        # Up to here that was proved by a catch-up that was asked for, or by an audit.
        Column("proven_seq", BigInteger, nullable=False, server_default="0"),
        # What is applied beyond gaps: JSON, pairs of the number before and the last number.
        Column("beyond", Text, nullable=False, server_default="[]"),
        # What has to be asked for, apart from gaps: changes, everything, snapshot or rows.
        Column("need", String(12), nullable=False, server_default=""),
        Column("buckets", Text, nullable=False, server_default="[]"),
        # The catch-up that was asked for, JSON; and the one that is being received, JSON.
        Column("request", Text),
        Column("run", Text),
        # Raised with each snapshot: rows that bear it were seen in that one.
        Column("mark", BigInteger, nullable=False, server_default="0"),
    )


def _row(metadata: MetaData) -> None:
    Table(
        "arus_row",
        metadata,
        # What is known of each row; of a deleted one its version stays. One of which nobody has told, but which
        # was found ashore, has the version -1.
        Column("vessel_id", String(64), primary_key=True),
        Column("entity", String(64), primary_key=True),
        Column("row_id", String(64), primary_key=True),
        Column("version", BigInteger, nullable=False),
        # The last change that was applied to it.
        Column("seq", BigInteger, nullable=False),
        Column("deleted", Boolean, nullable=False, server_default=text("false")),
        # Of `data` as it came (arus.digest); empty for a deleted row.
        Column("hash", String(64), nullable=False, server_default=""),
        Column("bucket", SmallInteger, nullable=False),
        Column("mark", BigInteger, nullable=False, server_default="0"),
        # The vessel that the row ashore belongs to, where that is another: what this one says of it is noted
        # only. Empty: it is this vessel's own.
        Column("owner", String(64), nullable=False, server_default=""),
        # Whose a row is, is looked up by the row alone.
        Index("ix_arus_row_entity_row", "entity", "row_id"),
        sqlite_with_rowid=False,
    )


def _held(metadata: MetaData) -> None:
    Table(
        "arus_held",
        metadata,
        # Changes that the database does not take yet: a row that they refer to has not arrived.
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
    )
