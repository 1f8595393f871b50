"""The change log for people: lists changes with their states, and retries or discards those that can't be sent.

A retried change is treated as if it had just been committed: it loses its number and gets a new one at the head of
its topic. Its old number can't be used again: the topic's watermark has passed it, later changes were sent since, and
the numbers of a topic only grow. It keeps its message id, because no receiver has ever seen it. The old number leaves
a gap, which receivers detect by `previousSeq` like the gap of a quarantined change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import orjson
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Connection, Row, inspect, select
from sqlalchemy.orm import Mapper, Session

from arus.errors import NotQuarantinedError, UnknownChangeError, UnsendableChangeError
from arus.protocol.entries import ChangeState, Operation
from arus.protocol.times import iso
from arus.registry import Registration, Registry

from . import sql
from .counters import DROPPED, add_to_counters
from .followers import applied_by
from .row_versions import versions_of
from .status import state_of

#: Maximum number of changes on one page.
MAX_LIMIT = 500
#: States in which a change may still be delivered, automatically or after a person's decision.
UNDELIVERED = (ChangeState.PENDING, ChangeState.IN_FLIGHT, ChangeState.QUARANTINED)

_LAST_ID = 2**63 - 1
#: Maximum characters of an error's text that are shown.
_MAX_REASON = 500


class ChangeRecord(Struct, frozen=True):
    """A change and its state."""

    id: int
    message_id: str
    entity: str
    #: Topic under the prefix.
    topic: str
    qos: int
    operation: Operation
    row_id: str
    version: int
    #: Milliseconds since the epoch, UTC.
    committed_at: int
    state: ChangeState
    #: Why it was quarantined, superseded or dropped.
    reason: str | None
    #: None until the owner has numbered it.
    seq: int | None
    previous_seq: int | None
    #: Who made it, as the application says; None if that is not known.
    actor: str | None = None
    #: The row as JSON; None if it was not requested.
    data: bytes | None = None
    #: For each follower, whether it has applied this change; None if that was not requested.
    applied_by: dict[str, bool] | None = None

    def document(self) -> dict[str, Any]:
        """Return the change as a JSON object, with `data` and `appliedBy` if they were requested."""
        document: dict[str, Any] = {
            "messageId": self.message_id,
            "entity": self.entity,
            "operation": self.operation,
            "rowId": self.row_id,
            "version": self.version,
            "state": self.state,
            "reason": self.reason,
            "topic": self.topic,
            "qos": self.qos,
            "seq": self.seq,
            "previousSeq": self.previous_seq,
            "timestamp": iso(self.committed_at),
            "actor": self.actor,
        }
        if self.data is not None:
            document["data"] = orjson.loads(self.data)
        if self.applied_by is not None:
            document["appliedBy"] = self.applied_by
        return document


class ChangePage(Struct, frozen=True):
    """A page of changes, and the cursor of the next page."""

    items: list[ChangeRecord]
    #: Cursor of the next page; None after the last.
    next: int | None


def list_changes(
    connection: Connection,
    *,
    states: Collection[ChangeState] = (),
    entity: str | None = None,
    limit: int = 50,
    cursor: int | None = None,
    oldest_first: bool = False,
    with_data: bool = False,
) -> ChangePage:
    """Return a page of changes, newest first.

    The page is read by one statement, so that no change is listed twice or missed while its state changes.

    :param states: only changes in one of these; all when empty.
    :param limit: up to `MAX_LIMIT`.
    :param cursor: `next` of the previous page.
    :raises ValueError: `limit` is out of bounds.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit is {limit}; it must be 1 to {MAX_LIMIT}")
    arguments: dict[str, Any] = {"cursor": cursor, "limit": limit + 1}
    if cursor is None:
        arguments["cursor"] = 0 if oldest_first else _LAST_ID
    if entity is not None:
        arguments["entity"] = entity
    statement = sql.changes.page(
        states, of_entity=entity is not None, oldest_first=oldest_first, with_data=with_data
    )
    rows = connection.execute(statement, arguments).all()
    items = [_record(row) for row in rows[:limit]]
    return ChangePage(items, items[-1].id if len(rows) > limit else None)


def each_change(
    connection: Connection, *, states: Collection[ChangeState], entity: str | None = None
) -> Iterator[ChangeRecord]:
    """Yield changes with their data, oldest first, reading a page at a time.

    No transaction stays open meanwhile: a change whose state changes while this runs may be left out, but none is
    yielded twice.
    """
    cursor: int | None = 0
    while cursor is not None:
        page = list_changes(
            connection,
            states=states,
            entity=entity,
            limit=MAX_LIMIT,
            cursor=cursor,
            oldest_first=True,
            with_data=True,
        )
        yield from page.items
        cursor = page.next


def changes_of_row(
    connection: Connection, entity: str, row_id: str, limit: int
) -> list[ChangeRecord]:
    """Return the latest changes of a row with their data, newest first."""
    wanted = {"entity": entity, "row_id": row_id, "limit": limit}
    return [_record(row) for row in connection.execute(sql.changes.OF_ROW, wanted)]


def find_change(connection: Connection, message_id: str) -> ChangeRecord:
    """Return a change with its data, and which followers have applied it.

    :raises UnknownChangeError: the log has no such change (any more).
    """
    row = None
    if _can_be_asked_for(message_id):
        row = connection.execute(sql.changes.ONE, {"message_id": message_id}).one_or_none()
    if row is None:
        raise UnknownChangeError(message_id)
    change = _record(row)
    # A change that was not sent may still be below a watermark.
    sent = change.state not in {ChangeState.QUARANTINED, ChangeState.DROPPED}
    return replace(change, applied_by=applied_by(connection, change.seq if sent else None))


def discard(connection: Connection, message_id: str) -> None:
    """Discard a quarantined change, in the caller's transaction; it is counted as dropped.

    :raises UnknownChangeError: the log has no such change (any more).
    :raises NotQuarantinedError: it is not quarantined.
    """
    change = _hold(connection, message_id)
    connection.execute(
        sql.changes.DISCARD, {"id": change.id, "reason": f"discarded by a person: {change.reason}"}
    )
    add_to_counters(connection, {(DROPPED, "", "", ""): 1})


def retry(session: Session, registry: Registry, message_id: str) -> None:
    """Send a quarantined change again, in the session's transaction.

    If its row still exists, the change gets the row's current data and version: its old data may have been impossible
    to send, and newer changes of the row may have been delivered since. The row is locked until the transaction ends,
    so that a change made meanwhile is numbered after this one.

    The caller notifies the owner after the commit, and rolls back if this raises.

    :raises UnknownChangeError: the log has no such change (any more).
    :raises NotQuarantinedError: it is not quarantined.
    :raises UnsendableChangeError: sending it would be useless or harmful; it stays quarantined.
    """
    connection = session.connection()
    change = _hold(connection, message_id)
    operation, version, data = change.operation, change.version, change.data
    registration = registry.of_entity(change.entity)
    row = registration and lock_row(session, registration, change.row_id)
    if registration and row is not None:
        if operation is Operation.DELETE:
            operation = Operation.UPDATE  # the row exists again: receivers must not delete it
        version, data = _serialise(session, registration, row, change)
    elif operation is not Operation.DELETE:
        if registration:
            raise UnsendableChangeError(
                f"change {message_id} can't be sent: its row was deleted since, and receivers would"
                " mistake it for a new one; discard it"
            )
        if change.seq is None:
            raise UnsendableChangeError(
                f"change {message_id} can't be sent: it was not serialisable when it was"
                f" committed, and {change.entity} is no longer registered"
            )
    arguments = {"id": change.id, "operation": operation.value, "version": version, "data": data}
    connection.execute(sql.changes.RETRY, arguments)


def _hold(connection: Connection, message_id: str) -> ChangeRecord:
    """Lock a quarantined change until the transaction ends, and return it."""
    if not _can_be_asked_for(message_id):
        raise UnknownChangeError(message_id)
    if not connection.execute(sql.changes.HOLD, {"message_id": message_id}).rowcount:
        raise NotQuarantinedError(message_id, find_change(connection, message_id).state)
    return find_change(connection, message_id)


def _can_be_asked_for(message_id: str) -> bool:
    """Whether every database accepts this text: a URL or a command line can contain other text."""
    return message_id.isascii() and message_id.isprintable()


def lock_row(session: Session, registration: Registration, row_id: str) -> Any | None:
    """Lock a row until the session's transaction ends, and return its current state; None if there is none."""
    mapper: Mapper[Any] = inspect(registration.model)
    (column,) = mapper.primary_key
    key = registration.typed_key(row_id)
    # Selects only the key: rows that the model loads by outer joins can't be locked, and the ORM would raise if
    # the session already has an outdated object of the row.
    if session.execute(select(column).where(column == key).with_for_update()).one_or_none() is None:
        return None
    return session.get(registration.model, key, populate_existing=True)


def _serialise(
    session: Session, registration: Registration, row: Any, change: ChangeRecord
) -> tuple[int, bytes]:
    try:
        with session.no_autoflush:
            rows = {change.row_id: row}
            version = versions_of(session.connection(), registration, rows)[change.row_id]
            return version, registration.serialise(row)
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
        problem = problem.encode(errors="backslashreplace").decode()
        raise UnsendableChangeError(
            f"change {change.message_id} stays quarantined: its row still can't be serialised"
            f" ({problem})"
        ) from error


def _record(row: Row[Any]) -> ChangeRecord:
    data = getattr(row, "data", None)
    return ChangeRecord(
        id=row.id,
        message_id=row.message_id,
        entity=row.entity,
        topic=row.topic,
        qos=row.qos,
        operation=Operation(row.operation),
        row_id=row.row_id,
        version=row.version,
        committed_at=row.committed_at,
        state=state_of(row),
        reason=row.reason,
        seq=row.seq,
        previous_seq=row.previous_seq,
        actor=row.actor,
        data=None if data is None else bytes(data),
    )
