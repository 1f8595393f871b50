"""Followers: what each of them has told of itself on `watermarks/<name>`.

A change is committed, then delivered to the broker, and then applied by each follower: this is where the third
of these is known from. A watermark is hostile until `parse` has read it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Connection, text

from .digest import BUCKETS
from .errors import RefusedMessageError
from .message import iso, iso_or_none, now_ms, read_object, read_time

logger = logging.getLogger(__name__)

#: Names that are kept; further ones are refused.
MAX_FOLLOWERS = 100
#: Bytes of a watermark.
MAX_PAYLOAD = 65_536
#: Entities in a comparison, and ids of rows of each.
MAX_ENTITIES = 100
MAX_ROWS = 20

_NAME = re.compile(r"[0-9A-Za-z._-]{1,64}")
_EPOCH = re.compile(r"[0-9A-Za-z-]{1,36}")
_MAX_SEQ = 2**63 - 1
#: Text that a terminal or a page can show.
_WORD = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,64}")

_SESSION = text("SELECT epoch, head_seq FROM arus_session WHERE id = 1")
_KNOWN = text("SELECT name FROM arus_follower WHERE name = :name")
_COUNT = text("SELECT COUNT(*) FROM arus_follower")
_SAVE = text(
    "INSERT INTO arus_follower (name, epoch, seq, reported_at, received_at, audit_seq, audit_equal,"
    " audit_at, audit_detail) VALUES (:name, :epoch, :seq, :reported_at, :received_at, :audit_seq,"
    " :audit_equal, :audit_at, :audit_detail)"
    " ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq,"
    " reported_at = excluded.reported_at, received_at = excluded.received_at,"
    " audit_seq = excluded.audit_seq, audit_equal = excluded.audit_equal,"
    " audit_at = excluded.audit_at, audit_detail = excluded.audit_detail"
)
_FORGET = text("DELETE FROM arus_follower WHERE name = :name")
_ALL = text(
    "SELECT f.name, f.epoch, f.seq, f.reported_at, f.received_at, f.audit_seq, f.audit_equal,"
    " f.audit_at, f.audit_detail, s.epoch AS current_epoch, s.head_seq"
    " FROM arus_follower f JOIN arus_session s ON s.id = 1 ORDER BY f.name"
)
# One look into the index for each topic.
_OLDEST_MISSING = text(
    "SELECT MIN((SELECT c.committed_at FROM arus_change c WHERE c.topic = l.topic AND c.seq > :seq"
    " AND c.outcome IS NULL ORDER BY c.seq LIMIT 1)) FROM arus_lane l"
)


@dataclass(frozen=True, slots=True)
class Audit:
    """A follower's last comparison with our digest."""

    #: Number of the digest.
    seq: int
    #: Milliseconds since the epoch, by the follower's clock.
    at: int | None
    equal: bool
    #: By entity: `equal`, the `buckets` that differ, and `rows` known to (ids).
    entities: Mapping[str, Mapping[str, Any]]

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {
            "seq": self.seq,
            "timestamp": iso_or_none(self.at),
            "equal": self.equal,
            "entities": self.entities,
        }


@dataclass(frozen=True, slots=True)
class Watermark:
    """What a follower tells of itself."""

    #: Of the vessel's log.
    epoch: str
    #: All up to here is durably applied there.
    seq: int
    #: Milliseconds since the epoch, by the follower's clock.
    reported_at: int | None
    #: The vessel that it speaks of; None where it does not say.
    vessel_id: str | None
    audit: Audit | None


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """How far a follower has come."""

    name: str
    epoch: str
    #: Whether it follows the present epoch of the log; one that does not has nothing that counts.
    current: bool
    #: All up to here is applied there.
    seq: int
    #: Changes that it has not applied yet.
    lag: int
    #: For how long the oldest of these has been committed, in milliseconds.
    lag_ms: int
    #: When it told, by its clock and by ours, in milliseconds since the epoch.
    reported_at: int | None
    received_at: int
    #: Its last comparison with our digest of the present epoch.
    audit: Audit | None

    @property
    def applied_seq(self) -> int:
        """All of the present epoch up to here is applied there."""
        return self.seq if self.current else 0

    @property
    def audit_seq(self) -> int | None:
        """Number of the digest that it last compared itself with."""
        return self.audit.seq if self.audit else None

    @property
    def audit_equal(self) -> bool | None:
        """Whether it was equal then."""
        return self.audit.equal if self.audit else None

    @property
    def audit_at(self) -> int | None:
        """When that was, in milliseconds since the epoch."""
        return self.audit.at if self.audit else None

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
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


def parse(payload: bytes) -> Watermark:
    """Return what a watermark says.

    :raises RefusedMessageError: it is not one.
    """
    body = read_object(payload, MAX_PAYLOAD)
    epoch = body.get("epoch")
    if not (isinstance(epoch, str) and _EPOCH.fullmatch(epoch)):
        raise RefusedMessageError("epoch is not one")
    vessel_id = body.get("vesselId")
    if vessel_id is not None and not (isinstance(vessel_id, str) and _WORD.fullmatch(vessel_id)):
        raise RefusedMessageError("vesselId is not one")
    return Watermark(epoch, _seq(body, "seq"), _time(body), vessel_id, _audit(body.get("audit")))


def note_watermark(connection: Connection, name: str, payload: bytes, *, vessel_id: str) -> None:
    """Take a follower's watermark, in the owner's transaction; what is malformed is logged and left.

    An empty one, by which a retained message is deleted at the broker, means that the follower is gone.

    :param name: the last level of the topic.
    :param vessel_id: ours; what speaks of another vessel is not for us.
    """
    try:
        if not _NAME.fullmatch(name):
            raise RefusedMessageError(
                "a follower's name is up to 64 letters, digits, '.', '_', '-'"
            )
        if not payload:
            connection.execute(_FORGET, {"name": name})
            return
        told = parse(payload)
        session = connection.execute(_SESSION).one()
        if told.vessel_id not in {None, vessel_id}:
            return
        if told.vessel_id is None and told.epoch != session.epoch:
            return
        if told.epoch == session.epoch and told.seq > session.head_seq:
            raise RefusedMessageError(f"seq is {told.seq}, but the log ends at {session.head_seq}")
        known = connection.execute(_KNOWN, {"name": name}).first() is not None
        if not known and connection.execute(_COUNT).scalar_one() >= MAX_FOLLOWERS:
            raise RefusedMessageError(f"there are {MAX_FOLLOWERS} followers already")
    except RefusedMessageError as error:
        logger.warning(
            "[MQTT Reliable Sync] a watermark is refused: %s", error, extra={"follower": name[:64]}
        )
        return
    audit = told.audit
    connection.execute(
        _SAVE,
        {
            "name": name,
            "epoch": told.epoch,
            "seq": told.seq,
            "reported_at": told.reported_at,
            "received_at": now_ms(),
            "audit_seq": audit.seq if audit else None,
            "audit_equal": audit.equal if audit else None,
            "audit_at": audit.at if audit else None,
            "audit_detail": orjson.dumps(audit.entities).decode() if audit else None,
        },
    )


def read_followers(connection: Connection) -> list[FollowerStatus]:
    """Return all followers that have told of themselves, by name."""
    found = []
    now = now_ms()
    for row in connection.execute(_ALL).all():
        current = row.epoch == row.current_epoch
        lag = row.head_seq - row.seq if current else row.head_seq
        oldest = None
        if lag:
            wanted = {"seq": row.seq if current else 0}
            oldest = connection.execute(_OLDEST_MISSING, wanted).scalar()
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
    """Return up to where each follower has applied the present epoch; 0 where it follows another."""
    return {
        row.name: row.seq if row.epoch == row.current_epoch else 0
        for row in connection.execute(_ALL)
    }


def applied_by(connection: Connection, seq: int | None) -> dict[str, bool]:
    """Return for each follower whether it has applied the change with this number, or a newer one of its row."""
    return {
        name: seq is not None and upto >= seq for name, upto in applied_up_to(connection).items()
    }


def _seq(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if type(value) is not int or not 0 <= value <= _MAX_SEQ:
        raise RefusedMessageError(f"{key} is not a number of the log")
    return value


def _time(body: Mapping[str, Any]) -> int | None:
    try:
        milliseconds = read_time(body)
    except RefusedMessageError:
        return None  # it is shown, and nothing depends on it
    return milliseconds if milliseconds >= 0 else None


def _audit(body: Any) -> Audit | None:
    if body is None:
        return None
    if not isinstance(body, dict):
        raise RefusedMessageError("audit is not an object")
    equal, entities = body.get("equal"), body.get("entities", {})
    if not isinstance(equal, bool):
        raise RefusedMessageError("audit.equal is neither true nor false")
    if not isinstance(entities, dict) or len(entities) > MAX_ENTITIES:
        raise RefusedMessageError("audit.entities is not an object of entities")
    return Audit(
        _seq(body, "seq"),
        _time(body),
        equal,
        {_word(name): _compared(told) for name, told in entities.items()},
    )


def _compared(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or not isinstance(body.get("equal"), bool):
        raise RefusedMessageError("audit.entities holds what is no comparison")
    buckets, rows = body.get("buckets", []), body.get("rows", [])
    if not isinstance(buckets, list) or len(buckets) > BUCKETS:
        raise RefusedMessageError("audit.entities: buckets is not a list of buckets")
    if any(type(bucket) is not int or not 0 <= bucket < BUCKETS for bucket in buckets):
        raise RefusedMessageError("audit.entities: buckets is not a list of buckets")
    if not isinstance(rows, list):
        raise RefusedMessageError("audit.entities: rows is not a list of ids")
    told = {
        "equal": body["equal"],
        "buckets": buckets,
        "rows": [_word(row_id) for row_id in rows[:MAX_ROWS]],
    }
    held_by = body.get("heldBy")
    if held_by is None:
        return told
    if not isinstance(held_by, dict):
        raise RefusedMessageError("audit.entities: heldBy is not an object of vessels")
    theirs = islice(held_by.items(), MAX_ROWS)
    return {**told, "heldBy": {_word(row_id): _word(vessel) for row_id, vessel in theirs}}


def _word(value: Any) -> str:
    if not (isinstance(value, str) and _WORD.fullmatch(value)):
        raise RefusedMessageError("audit.entities: a name or an id is not one")
    return value
