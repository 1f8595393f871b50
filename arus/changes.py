"""The change log as people see it: which changes there are, what became of each, and what to do about those
that can't be sent.

A retried change flows again as if it had just been committed: it loses its number and gets a fresh one at the
head of its topic. Its old number can't be used again: the topic's watermark has passed it, later changes were
sent since, and per topic numbers only grow. It keeps its message id, for no receiver has ever seen it. The
hole that the old number leaves is a gap, which receivers see by `previousSeq` as they see that of a
quarantined change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import Connection, Row, inspect, select, text
from sqlalchemy.orm import Mapper, Session

from .counters import DROPPED, add_to_counters
from .errors import NotQuarantinedError, UnknownChangeError, UnsendableChangeError
from .followers import applied_by
from .message import ChangeState, Operation, iso
from .registry import Registration, Registry
from .status import state_of

#: Most changes on one page.
MAX_LIMIT = 500
#: States in which a change may still be delivered, by itself or after a person's decision.
UNDELIVERED = (ChangeState.PENDING, ChangeState.IN_FLIGHT, ChangeState.QUARANTINED)

_LAST_ID = 2**63 - 1
#: Characters of an error's text that are shown.
_MAX_REASON = 500

_PAGE = (
    "SELECT c.id, c.message_id, c.entity, c.topic, c.qos, c.operation, c.row_id, c.version,"
    " c.committed_at, c.seq, c.previous_seq, c.outcome, c.reason{data}, l.sent_seq, l.acked_seq"
    " FROM ({branches}) f JOIN arus_change c ON c.id = f.id"
    " LEFT JOIN arus_lane l ON l.topic = c.topic ORDER BY c.id{descending} LIMIT :limit"
)
_BRANCH = (
    "SELECT * FROM (SELECT c.id FROM {source} AND c.id {beyond} :cursor{entity}"
    " ORDER BY c.id{descending} LIMIT :limit) {alias}"
)
_ANY = "arus_change c WHERE c.id > 0"
_ENTITY_BY_INDEX = " AND c.entity = :entity"
# Not by the entity's index, which would look up every change that the entity ever had.
_ENTITY = " AND c.entity || '' = :entity"
# CROSS JOIN: SQLite then takes the tables in this order. A topic's unsettled changes are a range of its
# index, and no more than the queue holds; the delivered ones are nearly all of the log.
_OF_LANE = "arus_lane l CROSS JOIN arus_change c WHERE c.topic = l.topic AND c.outcome IS NULL"
_DELIVERED = (
    "arus_change c CROSS JOIN arus_lane l WHERE l.topic = c.topic AND c.outcome IS NULL"
    " AND c.seq <= l.acked_seq"
)
_SOURCES: dict[ChangeState, tuple[str, ...]] = {
    ChangeState.PENDING: (
        "arus_change c WHERE c.seq IS NULL AND c.outcome IS NULL",
        f"{_OF_LANE} AND c.seq > l.sent_seq",
    ),
    ChangeState.IN_FLIGHT: (f"{_OF_LANE} AND c.seq > l.acked_seq AND c.seq <= l.sent_seq",),
    ChangeState.DELIVERED: (_DELIVERED,),
    ChangeState.QUARANTINED: ("arus_change c WHERE c.outcome = 'quarantined'",),
    ChangeState.SUPERSEDED: ("arus_change c WHERE c.outcome = 'superseded'",),
    ChangeState.DROPPED: ("arus_change c WHERE c.outcome = 'dropped'",),
}
_ONE = text(
    "SELECT c.id, c.message_id, c.entity, c.topic, c.qos, c.operation, c.row_id, c.version,"
    " c.committed_at, c.seq, c.previous_seq, c.outcome, c.reason, c.data, l.sent_seq, l.acked_seq"
    " FROM arus_change c LEFT JOIN arus_lane l ON l.topic = c.topic WHERE c.message_id = :message_id"
)
# Changes nothing, but locks the entry on PostgreSQL and the database on SQLite: of two people who decide
# at the same time the second is told that the first was quicker.
_HOLD = text(
    "UPDATE arus_change SET outcome = outcome"
    " WHERE message_id = :message_id AND outcome = 'quarantined'"
)
_RETRY = text(
    "UPDATE arus_change SET outcome = NULL, reason = NULL, seq = NULL, previous_seq = NULL,"
    " operation = :operation, version = :version, data = :data WHERE id = :id"
)
_DISCARD = text("UPDATE arus_change SET outcome = 'dropped', reason = :reason WHERE id = :id")


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """A change, and what became of it."""

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
    #: None while its owner has not numbered it.
    seq: int | None
    previous_seq: int | None
    #: The row as JSON; None where it was not asked for.
    data: bytes | None = None
    #: For each follower, whether it has applied this change; None where that was not asked for.
    applied_by: dict[str, bool] | None = None

    def document(self) -> dict[str, Any]:
        """Return the change as it is shown to programs; `data` and `appliedBy` only where they are known."""
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
        }
        if self.data is not None:
            document["data"] = orjson.loads(self.data)
        if self.applied_by is not None:
            document["appliedBy"] = self.applied_by
        return document


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Some changes, and where to go on."""

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

    One statement, so that no change is seen twice or missed while the relay moves it on.

    :param states: only changes in one of these; all when empty.
    :param limit: up to `MAX_LIMIT`.
    :param cursor: `next` of the page before.
    :raises ValueError: `limit` is out of bounds.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValueError(f"limit is {limit}; it takes 1 to {MAX_LIMIT}")
    arguments: dict[str, Any] = {"cursor": cursor, "limit": limit + 1}
    if cursor is None:
        arguments["cursor"] = 0 if oldest_first else _LAST_ID
    if entity is not None:
        arguments["entity"] = entity
    statement = page_statement(
        states, of_entity=entity is not None, oldest_first=oldest_first, with_data=with_data
    )
    rows = connection.execute(text(statement), arguments).all()
    items = [_record(row) for row in rows[:limit]]
    return ChangePage(items, items[-1].id if len(rows) > limit else None)


def page_statement(
    states: Collection[ChangeState], *, of_entity: bool, oldest_first: bool, with_data: bool
) -> str:
    """Return the SQL of a page: the pages of each state by its own index, merged."""
    wanted = frozenset(states)
    sources = (
        [_ANY]
        if wanted in (frozenset(), frozenset(ChangeState))
        else [source for state in ChangeState if state in wanted for source in _SOURCES[state]]
    )
    descending = "" if oldest_first else " DESC"
    branches = [
        _BRANCH.format(
            source=source,
            beyond=">" if oldest_first else "<",
            entity=(_ENTITY_BY_INDEX if source is _ANY else _ENTITY) if of_entity else "",
            descending=descending,
            alias=f"b{number}",
        )
        for number, source in enumerate(sources)
    ]
    return _PAGE.format(
        branches=" UNION ALL ".join(branches),
        data=", c.data" if with_data else "",
        descending=descending,
    )


def each_change(
    connection: Connection, *, states: Collection[ChangeState], entity: str | None = None
) -> Iterator[ChangeRecord]:
    """Yield changes with their data, oldest first, reading a page at a time.

    No transaction stays open meanwhile: changes that move on while this runs may be left out, none comes
    twice.
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


def find_change(connection: Connection, message_id: str) -> ChangeRecord:
    """Return a change with its data and who has applied it.

    :raises UnknownChangeError: the log has no such change (any more).
    """
    row = None
    if _can_be_asked_for(message_id):
        row = connection.execute(_ONE, {"message_id": message_id}).one_or_none()
    if row is None:
        raise UnknownChangeError(message_id)
    change = _record(row)
    # One that was not sent may lie below a watermark all the same.
    sent = change.state not in {ChangeState.QUARANTINED, ChangeState.DROPPED}
    return replace(change, applied_by=applied_by(connection, change.seq if sent else None))


def discard(connection: Connection, message_id: str) -> None:
    """Give a quarantined change up, in the caller's transaction; counted as dropped.

    :raises UnknownChangeError: the log has no such change (any more).
    :raises NotQuarantinedError: it is not quarantined.
    """
    change = _hold(connection, message_id)
    connection.execute(
        _DISCARD, {"id": change.id, "reason": f"discarded by a person: {change.reason}"}
    )
    add_to_counters(connection, {(DROPPED, "", "", ""): 1})


def retry(session: Session, registry: Registry, message_id: str) -> None:
    """Let a quarantined change flow again, in the session's transaction.

    Where its row still exists the change takes the row's present data and version: what it held may have been
    impossible to send, and newer changes of the row may have been delivered since. The row is locked until
    the transaction ends, so that a change made meanwhile is numbered after this one.

    Whoever calls rings the bell after the commit, and rolls back when this raises.

    :raises UnknownChangeError: the log has no such change (any more).
    :raises NotQuarantinedError: it is not quarantined.
    :raises UnsendableChangeError: it would be no use, or do harm; it stays quarantined.
    """
    connection = session.connection()
    change = _hold(connection, message_id)
    operation, version, data = change.operation, change.version, change.data
    registration = registry.of_entity(change.entity)
    row = registration and lock_row(session, registration, change.row_id)
    if registration and row is not None:
        if operation is Operation.DELETE:
            operation = Operation.UPDATE  # the row came back: receivers must not delete it
        version, data = _serialise(session, registration, row, change)
    elif operation is not Operation.DELETE:
        if registration:
            raise UnsendableChangeError(
                f"change {message_id} can't be sent: its row was deleted since, and receivers would"
                " take it for a new one; discard it"
            )
        if change.seq is None:
            raise UnsendableChangeError(
                f"change {message_id} can't be sent: it was not serialisable when it was"
                f" committed, and {change.entity} is no longer registered"
            )
    arguments = {"id": change.id, "operation": operation.value, "version": version, "data": data}
    connection.execute(_RETRY, arguments)


def _hold(connection: Connection, message_id: str) -> ChangeRecord:
    """Lock a quarantined change until the transaction ends, and return it."""
    if not _can_be_asked_for(message_id):
        raise UnknownChangeError(message_id)
    if not connection.execute(_HOLD, {"message_id": message_id}).rowcount:
        raise NotQuarantinedError(message_id, find_change(connection, message_id).state)
    return find_change(connection, message_id)


def _can_be_asked_for(message_id: str) -> bool:
    """Whether it is a text that every database takes: an address or a command line can hold others."""
    return message_id.isascii() and message_id.isprintable()


def lock_row(session: Session, registration: Registration, row_id: str) -> Any | None:
    """Lock a row until the session's transaction ends, and return it as it is now; None where there is none."""
    mapper: Mapper[Any] = inspect(registration.model)
    (column,) = mapper.primary_key
    key = registration.typed_key(row_id)
    # By its key alone: what the model loads along with it by outer joins can't be locked, and of an object
    # that the session holds already the ORM would demand that it is not outdated.
    if session.execute(select(column).where(column == key).with_for_update()).one_or_none() is None:
        return None
    return session.get(registration.model, key, populate_existing=True)


def _serialise(
    session: Session, registration: Registration, row: Any, change: ChangeRecord
) -> tuple[int, bytes]:
    try:
        with session.no_autoflush:
            return int(getattr(row, registration.version) or 0), registration.serialise(row)
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
        data=None if data is None else bytes(data),
    )
