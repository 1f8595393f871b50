"""Followers: what each of them has reported about itself on `watermarks/<name>`.

A change is committed, then delivered to the broker, and then applied by each follower: this module tracks the third
step. A watermark is untrusted until it was decoded (`arus.protocol.encoding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from msgspec import Struct
from sqlalchemy import Connection

from arus.errors import RefusedMessageError
from arus.protocol.encoding import decode_watermark, encode
from arus.protocol.messages import Progress, Watermark
from arus.protocol.times import iso, iso_or_none, now_ms
from arus.protocol.topics import FOLLOWER_NAME

from . import sql

#: Followers that are kept; one more replaces the one that was silent for longest, but for so many milliseconds at
#: least, or it is refused.
MAX_FOLLOWERS = 100
SILENCE = 3_600_000


class Audit(Struct, frozen=True):
    """A follower's last comparison with our digest."""

    #: Number of the digest.
    seq: int
    #: Milliseconds since the epoch, by the follower's clock.
    at: int | None
    equal: bool
    #: By entity: `equal`, the `buckets` that differ, and the ids of the `rows` known to differ.
    entities: Mapping[str, Mapping[str, Any]]

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "seq": self.seq,
            "timestamp": iso_or_none(self.at),
            "equal": self.equal,
            "entities": self.entities,
        }


class FollowerStatus(Struct, frozen=True):
    """A follower's progress."""

    name: str
    epoch: str
    #: Whether it follows the current epoch of the log; if not, nothing that it has applied counts.
    current: bool
    #: It has applied all changes up to this number.
    seq: int
    #: Changes that it has not applied yet.
    lag: int
    #: Milliseconds since the oldest of these was committed.
    lag_ms: int
    #: When it reported, by its clock and by ours, in milliseconds since the epoch.
    reported_at: int | None
    received_at: int
    #: Its last comparison with our digest, in the current epoch.
    audit: Audit | None

    @property
    def applied_seq(self) -> int:
        """Number up to which it has applied the current epoch; 0 if it follows another."""
        return self.seq if self.current else 0

    @property
    def audit_seq(self) -> int | None:
        """Number of the digest in its last comparison."""
        return self.audit.seq if self.audit else None

    @property
    def audit_equal(self) -> bool | None:
        """Whether its copy was equal in that comparison."""
        return self.audit.equal if self.audit else None

    @property
    def audit_at(self) -> int | None:
        """When that comparison was made, in milliseconds since the epoch."""
        return self.audit.at if self.audit else None

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "name": self.name,
            "epoch": self.epoch,
            "current": self.current,
            "seq": self.seq,
            "lag": self.lag,
            "lagMs": self.lag_ms,
            "reportedAt": iso_or_none(self.reported_at),
            "receivedAt": iso(self.received_at),
            "audit": self.audit.document() if self.audit else None,
        }


class Noted(NamedTuple):
    """What a watermark says to the vessel itself."""

    #: How much of a catch-up the follower has received.
    progress: Progress | None = None
    #: The number of a watermark about this vessel and its epoch that is above the log's head.
    ahead: int | None = None
    #: What a person is to be told about it.
    says: str | None = None
    #: A follower that was removed.
    removed: str | None = None


def is_known(connection: Connection, name: str) -> bool:
    """Whether a follower of this name has reported a watermark."""
    return connection.execute(sql.followers.KNOWN, {"name": name}).first() is not None


def note_watermark(connection: Connection, name: str, payload: bytes, *, vessel_id: str) -> Noted:
    """Record a follower's watermark, in the owner's transaction.

    An empty payload, which deletes the retained message at the broker, means that the follower is gone.

    :param name: the last level of the topic.
    :param vessel_id: our own; watermarks for other vessels are ignored.
    :raises RefusedMessageError: it is not a watermark, or can't be true, or there are too many followers.
    """
    if not FOLLOWER_NAME.fullmatch(name):
        raise RefusedMessageError("a follower's name is up to 64 letters, digits, '.', '_', '-'")
    if not payload:
        was_known = connection.execute(sql.followers.FORGET, {"name": name}).rowcount > 0
        return Noted(removed=name if was_known else None)
    told = _about_us(connection, payload, vessel_id)
    if told is None:
        return Noted()
    head = connection.execute(sql.session.HEAD).one()
    if told.epoch == head.epoch and told.seq > head.head_seq:
        says = (
            f"a watermark is not accepted: seq is {told.seq}, but the log ends at {head.head_seq}"
        )
        ahead = told.seq if told.vessel_id == vessel_id else None
        return Noted(ahead=ahead, says=says)
    removed = None if is_known(connection, name) else _make_room(connection)
    _save(connection, name, told)
    return Noted(told.catchup, removed=removed)


def _save(connection: Connection, name: str, told: Watermark) -> None:
    audit = told.audit
    connection.execute(
        sql.followers.SAVE,
        {
            "name": name,
            "epoch": told.epoch,
            "seq": told.seq,
            "reported_at": told.reported_at,
            "received_at": now_ms(),
            "audit_seq": audit.seq if audit else None,
            "audit_equal": audit.equal if audit else None,
            "audit_at": audit.at if audit else None,
            "audit_detail": encode(audit.entities).decode() if audit else None,
        },
    )
    if told.catchup is not None:
        connection.execute(
            sql.catchups.RECEIVED,
            {
                "consumer": name,
                "catchup_id": told.catchup.catchup_id,
                "entity": told.catchup.entity,
                "received": told.catchup.received,
            },
        )


def _about_us(connection: Connection, payload: bytes, vessel_id: str) -> Watermark | None:
    """Return a watermark about this vessel; None if it is about another.

    :raises RefusedMessageError: it is not a watermark.
    """
    told = decode_watermark(payload)
    session = connection.execute(sql.session.HEAD).one()
    if told.vessel_id not in {None, vessel_id}:
        return None
    if told.vessel_id is None and told.epoch != session.epoch:
        return None
    return told


def _make_room(connection: Connection) -> str | None:
    """Remove the follower that was silent for longest, if there are too many; return its name.

    :raises RefusedMessageError: none of them was silent for `SILENCE`.
    """
    if connection.execute(sql.followers.COUNT).scalar_one() < MAX_FOLLOWERS:
        return None
    row = connection.execute(sql.followers.SILENT, {"before": now_ms() - SILENCE}).first()
    if row is None:
        raise RefusedMessageError(f"there are {MAX_FOLLOWERS} followers already")
    connection.execute(sql.followers.FORGET, {"name": row.name})
    return str(row.name)


def read_followers(connection: Connection) -> list[FollowerStatus]:
    """Return all followers that have reported, ordered by name."""
    found = []
    now = now_ms()
    for row in connection.execute(sql.followers.ALL).all():
        current = row.epoch == row.current_epoch
        lag = row.head_seq - row.seq if current else row.head_seq
        oldest = None
        if lag:
            wanted = {"seq": row.seq if current else 0}
            oldest = connection.execute(sql.changes.OLDEST_ABOVE, wanted).scalar()
        audit = None
        if current and row.audit_seq is not None:
            entities = orjson.loads(row.audit_detail or "{}")
            audit = Audit(row.audit_seq, row.audit_at, bool(row.audit_equal), entities)
        found.append(
            FollowerStatus(
                name=row.name,
                epoch=row.epoch,
                current=current,
                seq=row.seq,
                lag=lag,
                lag_ms=max(0, now - oldest) if oldest is not None else 0,
                reported_at=row.reported_at,
                received_at=row.received_at,
                audit=audit,
            )
        )
    return found


def applied_up_to(connection: Connection) -> dict[str, int]:
    """Return the number up to which each follower has applied the current epoch; 0 if it follows another."""
    return {
        row.name: row.seq if row.epoch == row.current_epoch else 0
        for row in connection.execute(sql.followers.ALL)
    }


def applied_by(connection: Connection, seq: int | None) -> dict[str, bool]:
    """Return for each follower whether it has applied the change with this number, or a newer one of its row."""
    return {
        name: seq is not None and upto >= seq for name, upto in applied_up_to(connection).items()
    }
