"""Parked messages: inbound ones that their handler failed on, kept until a person has decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from .errors import UnknownMessageError
from .message import iso, now_ms

_LIST = text(
    "SELECT id, topic, payload, topic_filter, reason, attempts, parked_at FROM arus_parked"
    " ORDER BY id DESC LIMIT :limit"
)
_FIND = text(
    "SELECT id, topic, payload, topic_filter, reason, attempts, parked_at FROM arus_parked"
    " WHERE id = :id"
)
_PARK = text(
    "INSERT INTO arus_parked (topic, payload, topic_filter, reason, attempts, parked_at)"
    " VALUES (:topic, :payload, :topic_filter, :reason, :attempts, :now)"
)
_FORGET = text("DELETE FROM arus_parked WHERE id = :id")


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """An inbound message that waits for a person."""

    id: int
    topic: str
    payload: bytes
    #: The subscription whose handler failed.
    topic_filter: str
    #: What the handler raised last.
    reason: str
    #: How often it was called.
    attempts: int
    #: Milliseconds since the epoch.
    parked_at: int

    def document(self) -> dict[str, Any]:
        """Return it as it stands in JSON."""
        return {
            "id": self.id,
            "topic": self.topic,
            "payload": self.payload.decode(errors="replace"),
            "topicFilter": self.topic_filter,
            "reason": self.reason,
            "attempts": self.attempts,
            "parkedAt": iso(self.parked_at),
        }


def park(
    connection: Connection,
    *,
    topic: str,
    payload: bytes,
    topic_filter: str,
    reason: str,
    attempts: int,
) -> None:
    """Keep a message, in the caller's transaction."""
    message = {"topic": topic, "payload": payload, "topic_filter": topic_filter}
    connection.execute(_PARK, {**message, "reason": reason, "attempts": attempts, "now": now_ms()})


def list_parked(connection: Connection, limit: int = 100) -> list[ParkedMessage]:
    """Return the messages that were parked last, newest first."""
    return [_message(row) for row in connection.execute(_LIST, {"limit": limit})]


def find_parked(connection: Connection, parked_id: int) -> ParkedMessage:
    """Return a parked message.

    :raises UnknownMessageError: there is none of this id.
    """
    row = connection.execute(_FIND, {"id": parked_id}).one_or_none()
    if row is None:
        raise UnknownMessageError(f"there is no parked message {parked_id}")
    return _message(row)


def forget_parked(connection: Connection, parked_id: int) -> None:
    """Forget a message, in the caller's transaction.

    :raises UnknownMessageError: there is none of this id.
    """
    if not connection.execute(_FORGET, {"id": parked_id}).rowcount:
        raise UnknownMessageError(f"there is no parked message {parked_id}")


def _message(row: Row[Any]) -> ParkedMessage:
    return ParkedMessage(
        id=row.id,
        topic=row.topic,
        payload=bytes(row.payload),
        topic_filter=row.topic_filter,
        reason=row.reason,
        attempts=row.attempts,
        parked_at=row.parked_at,
    )
