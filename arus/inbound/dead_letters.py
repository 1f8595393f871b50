"""Dead letters: inbound messages whose handler failed, kept until a person has decided."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Row

from arus.errors import UnknownMessageError
from arus.escapes import escaped
from arus.logs import get_logger
from arus.outbox import sql
from arus.protocol.times import iso, now_ms

logger = get_logger(__name__)

#: What an id can be: the driver, or the database, refuses any larger number.
_IDS = range(1, 2**63)


class DeadLetter(Struct, frozen=True):
    """An inbound message that waits for a person's decision."""

    id: int
    topic: str
    payload: bytes
    #: The subscription whose handler failed.
    topic_filter: str
    #: The last exception of the handler.
    reason: str
    #: How often the handler was called.
    attempts: int
    #: Milliseconds since the epoch.
    parked_at: int

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "id": self.id,
            "topic": self.topic,
            "payload": self.payload.decode(errors="replace"),
            "topicFilter": self.topic_filter,
            "reason": self.reason,
            "attempts": self.attempts,
            "parkedAt": iso(self.parked_at),
        }


#: Dead letters of a subscription that are kept: the newest.
MAX_DEAD_LETTERS = 1_000


def add_dead_letter(
    connection: Connection,
    *,
    topic: str,
    payload: bytes,
    topic_filter: str,
    reason: str,
    attempts: int,
) -> None:
    """Store a message as a dead letter, in the caller's transaction; the oldest one of many is deleted."""
    message: dict[str, Any] = {"topic": topic, "payload": payload, "topic_filter": topic_filter}
    # A reason may quote the message, and PostgreSQL stores no NUL.
    message |= {"reason": escaped(reason), "attempts": attempts, "parked_at": now_ms()}
    connection.execute(sql.inbound.ADD_DEAD_LETTER, message)
    wanted = {"topic_filter": topic_filter, "most": MAX_DEAD_LETTERS}
    if connection.execute(sql.inbound.TRIM_DEAD_LETTERS, wanted).rowcount:
        logger.error(
            "[MQTT Reliable Sync] there are %d dead letters of %s already: the oldest is deleted",
            MAX_DEAD_LETTERS,
            topic_filter,
        )


def list_dead_letters(connection: Connection, limit: int = 100) -> list[DeadLetter]:
    """Return the latest dead letters, newest first."""
    return [_message(row) for row in connection.execute(sql.inbound.DEAD_LETTERS, {"limit": limit})]


def find_dead_letter(connection: Connection, parked_id: int) -> DeadLetter:
    """Return a dead letter.

    :raises UnknownMessageError: there is none with this id.
    """
    known = parked_id in _IDS
    row = known and connection.execute(sql.inbound.DEAD_LETTER, {"id": parked_id}).one_or_none()
    if not row:
        raise UnknownMessageError(f"there is no dead letter {parked_id}")
    return _message(row)


def forget_dead_letters(connection: Connection, parked_id: int) -> None:
    """Delete a dead letter, in the caller's transaction.

    :raises UnknownMessageError: there is none with this id.
    """
    wanted = {"id": parked_id}
    if (
        parked_id not in _IDS
        or not connection.execute(sql.inbound.FORGET_DEAD_LETTER, wanted).rowcount
    ):
        raise UnknownMessageError(f"there is no dead letter {parked_id}")


def _message(row: Row[Any]) -> DeadLetter:
    return DeadLetter(
        id=row.id,
        topic=row.topic,
        payload=bytes(row.payload),
        topic_filter=row.topic_filter,
        reason=row.reason,
        attempts=row.attempts,
        parked_at=row.parked_at,
    )
