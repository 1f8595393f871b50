"""The connection of each follower, kept in the database so that any process can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from msgspec import Struct, field
from sqlalchemy import Connection, inspect

from arus.protocol.times import now_ms

from . import sql
from .sql import build


class FollowerLink(Struct, frozen=True):
    """The connection of one follower to the broker."""

    name: str
    connected: bool
    #: Why there is no connection, or why the last attempt failed; while there is one, what the broker refuses to take.
    reason: str | None
    #: In milliseconds since the epoch.
    changed_at: int
    #: Vessels that are not followed because they share the prefix of one that is: when each was last heard, in
    #: milliseconds since the epoch.
    refused: Mapping[str, int] = field(default_factory=dict)

    def refused_since(self, since: int) -> dict[str, int]:
        """Return those of `refused` that were heard after a time, in milliseconds since the epoch."""
        return {vessel_id: at for vessel_id, at in self.refused.items() if at > since}


def client_id_of(name: str) -> str:
    """Return the MQTT client id of a follower: stable, so that the broker keeps its session."""
    return f"arus_follow_{name}"


def has_links(connection: Connection) -> bool:
    """Whether this database can have followers: an application need not have their tables."""
    return inspect(connection).has_table(build.TABLES.follow_link.name)


def read_filters(connection: Connection, name: str) -> list[str]:
    """Return the filters that the broker has subscribed a follower to; empty if they are not known."""
    filters = connection.execute(sql.store.FILTERS, {"name": name}).scalar()
    return orjson.loads(filters) if filters else []


def save_filters(connection: Connection, name: str, filters: Sequence[str]) -> None:
    """Save the filters that the broker has subscribed a follower to, in the caller's transaction."""
    saved = {"name": name, "filters": orjson.dumps(list(filters)).decode()}
    connection.execute(sql.store.SAVE_FILTERS, saved)


def save_refused(connection: Connection, name: str, refused: Mapping[str, int]) -> None:
    """Save the vessels that are not followed because they share a prefix, in the caller's transaction."""
    saved = {"name": name, "refused": orjson.dumps(dict(refused)).decode()}
    connection.execute(sql.store.SAVE_REFUSED, saved)


def save_link(connection: Connection, name: str, reason: str | None, *, connected: bool) -> None:
    """Save a follower's connection, in the caller's transaction."""
    row = {"name": name, "connected": connected, "reason": reason, "changed_at": now_ms()}
    connection.execute(sql.store.SAVE_LINK, row)


def read_links(connection: Connection) -> dict[str, FollowerLink]:
    """Return the connections of all followers that this database has had, by name."""
    rows = connection.execute(sql.report.LINKS)
    return {
        row.name: FollowerLink(
            row.name,
            bool(row.connected),
            row.reason,
            row.changed_at,
            orjson.loads(row.refused) if row.refused else {},
        )
        for row in rows
    }
