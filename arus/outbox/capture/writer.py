"""Writes entries of the change log in the transaction that made the changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import INFO
from typing import Any

from sqlalchemy import Connection, Row
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from arus.errors import CaptureError
from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.counters import FAILURES, add_to_counters
from arus.outbox.row_versions import keep, raise_kept
from arus.protocol.entries import Operation, Receipt, new_message_id
from arus.protocol.rows import MAX_ID
from arus.protocol.times import now_ms
from arus.registry import Registration, mere_row

from .engines import connection_of, engine_of, session_of
from .pending import Change, Content, Pending, find_pending, innermost
from .refreshed import refresh_objects
from .versions import may_repeat, raise_versions, version_of

logger = get_logger(__name__)

_RECEIPT = "arus_receipt"
#: Maximum characters of the reason why a row can't be serialised.
_MAX_REASON = 2_000
#: Characters that a log line must not contain.
_MESSAGE_ID, _ENTITY, _ROW_ID, _VERSION, _DATA, _OUTCOME, _ACTOR = map(
    sql.entries.WRITTEN.index,
    ("message_id", "entity", "row_id", "version", "data", "outcome", "actor"),
)
#: Entries in one statement.
_CHUNK = 500


def receipt_of(row: Any) -> Receipt | None:
    """Return the receipt of the last change of `row` that was captured from this object."""
    return instance_state(row).info.get(_RECEIPT)


def hand_out_receipts(pending: Pending) -> None:
    """Attach the receipts of their changes to the rows of a committed transaction."""
    for state, receipt in pending.receipts:
        state.info[_RECEIPT] = receipt


def log_change(
    connection: Connection,
    *,
    entity: str,
    topic: str,
    qos: int,
    operation: Operation,
    row_id: str,
    version: int,
    data: bytes,
) -> str:
    """Log a change that isn't captured from a registered model, in the caller's transaction; return its message id.

    The caller notifies the owner after the commit.

    :param data: JSON.
    """
    now = now_ms()
    message_id = new_message_id(now)
    entry = (
        message_id, entity, topic, qos, operation.value, row_id, version, now, data, None, None,
        _actor(connection, _pending_of(session_of(connection))),
    )  # fmt: skip
    connection.exec_driver_sql(sql.entries.insert_entry(connection.dialect.paramstyle), entry)
    return message_id


def write_if_sealed(session: Session) -> None:
    """Write the entries of the pending changes if the commit has begun."""
    pending = find_pending(session)
    if pending is None or not pending.sealed:
        return
    transaction = innermost(session)
    if transaction is None:
        return
    changes = pending.take(transaction)
    if not changes:
        return
    try:
        pending.receipts += write_changes(session, list(changes.values()), pending)
    except BaseException:
        pending.failed = True
        raise


def write_changes(
    session: Session, changes: Sequence[Change], pending: Pending | None = None
) -> list[tuple[InstanceState[Any], Receipt]]:
    """Write the entries of changes in a session's transaction, and return the receipts by row.

    :param pending: of the session's transaction; None for a session that only reads.
    """
    if not changes:
        return []
    refresh_objects(session, changes)
    connection = connection_of(session, changes[0].registration.model)
    for change in changes:
        if change.replaced is not None:
            _go_on(session, connection, change, change.replaced)
    committed_at = now_ms()
    actor = _actor(connection, pending)
    versions = _kept_versions(connection, changes)
    entries = [_entry(session, change, committed_at, actor, versions) for change in changes]
    written = _write_entries(session, connection, changes, entries)
    quarantined, receipts = 0, []
    for change, entry in zip(changes, written, strict=True):
        if entry is None:
            continue
        data = entry[_DATA]
        if entry[_OUTCOME] is not None:
            quarantined, data = quarantined + 1, None
        receipt = Receipt(entry[_MESSAGE_ID], data, entry[_VERSION])
        receipts.append((instance_state(change.row), receipt))
    if quarantined:
        add_to_counters(connection, {(FAILURES, "", "", ""): quarantined})
    return receipts


def _actor(connection: Connection, pending: Pending | None) -> str | None:
    """Return who makes the current transaction; the application is asked once in each transaction of a session."""
    if pending is not None and pending.actor:
        return pending.actor[0]
    engine = engine_of(connection)
    actor = engine.actors.current() if engine is not None else None
    if pending is not None:
        pending.actor = (actor,)
    return actor


def _pending_of(session: Session | None) -> Pending | None:
    return None if session is None else find_pending(session)


def _kept_versions(connection: Connection, changes: Sequence[Change]) -> dict[tuple[str, str], int]:
    """Return the next versions of the changed rows whose versions the log keeps, by entity and row id."""
    kept: dict[str, tuple[Registration, dict[str, Operation]]] = {}
    for change in changes:
        if change.registration.version is None:
            _, operations = kept.setdefault(change.registration.entity, (change.registration, {}))
            operations[change.row_id] = change.operation
    if not kept:
        return {}
    return {
        (entity, row_id): version
        for entity, (registration, operations) in kept.items()
        for row_id, version in raise_kept(connection, registration, operations).items()
    }


def _write_entries(
    session: Session,
    connection: Connection,
    changes: Sequence[Change],
    entries: Sequence[tuple[Any, ...]],
) -> Sequence[tuple[Any, ...] | None]:
    """Write entries, and return them as they were written; None in the place of one that says what the log has said."""
    style = connection.dialect.paramstyle
    guards = [_guard(change, entry) for change, entry in zip(changes, entries, strict=True)]
    if all(is_news for is_news, *_ in guards):
        _insert(connection, sql.entries.insert_entry(style), entries)
        return entries
    guarded = [(*guard, *entry) for guard, entry in zip(guards, entries, strict=True)]
    written = _insert(connection, sql.entries.insert_new_entry(style), guarded)
    if written == len(entries):
        return entries
    return _write_known(session, connection, changes, entries, written)


def _guard(change: Change, entry: tuple[Any, ...]) -> tuple[bool, str, str, int]:
    """Return whether an entry is surely news of its row; otherwise entity, row id and version say whether it is."""
    if change.operation is Operation.CREATE:
        return False, entry[_ENTITY], entry[_ROW_ID], 0  # the log must not know the row
    is_news = change.operation is not Operation.DELETE and not may_repeat(change.registration)
    return is_news, entry[_ENTITY], entry[_ROW_ID], entry[_VERSION]


def _insert(connection: Connection, text: str, rows: Sequence[tuple[Any, ...]]) -> int:
    """Execute an INSERT for each row; return how many were inserted."""
    # A single row avoids the driver's slower way for many.
    if len(rows) > 1:
        return connection.exec_driver_sql(text, list(rows)).rowcount
    engine = connection.engine
    # SQLAlchemy 2.0 has the first one on instances alone.
    heard = getattr(connection, "_has_events", True) or engine._has_events
    if heard or engine.logger.isEnabledFor(INFO):
        return connection.exec_driver_sql(text, rows[0]).rowcount
    return _execute(connection, text, rows[0])


def _execute(connection: Connection, text: str, row: tuple[Any, ...]) -> int:
    """Execute driver SQL on the driver's cursor, as nobody listens to the engine; return how many rows it has written.

    SQLAlchemy's own execution takes longer than SQLite's, for a result that nobody reads. This runs at each commit.
    """
    cursor: Any = None
    try:
        cursor = connection.connection.cursor()
        connection.dialect.do_execute(cursor, text, row)
        written: int = cursor.rowcount
        cursor.close()
    except BaseException as error:  # noqa: BLE001  # raised again there: a driver's error as one of SQLAlchemy
        connection._handle_dbapi_exception(error, text, row, cursor, None)
    return written


def _write_known(
    session: Session,
    connection: Connection,
    changes: Sequence[Change],
    entries: Sequence[tuple[Any, ...]],
    count: int,
) -> list[tuple[Any, ...] | None]:
    """Write those entries that were not: the log knows their rows. Return all entries as they were written, or None.

    :param count: how many were written.
    """
    ids = [entry[_MESSAGE_ID] for entry in entries]
    written: set[str] = set()
    for start in range(0, len(ids), _CHUNK):
        wanted = {"message_ids": ids[start : start + _CHUNK]}
        written |= set(connection.execute(sql.entries.WRITTEN_IDS, wanted).scalars())
    taken = sum(each in written for each in ids) != count
    if taken and connection.dialect.name == "sqlite":  # which ignores these entries too
        raise CaptureError(
            "the random id of a change belongs to another one; repeat the transaction"
        )
    result: list[tuple[Any, ...] | None] = []
    for change, entry in zip(changes, entries, strict=True):
        if entry[_MESSAGE_ID] not in written:
            known = _known_again(session, connection, change, entry)
            if known is not None:
                statement = sql.entries.insert_entry(connection.dialect.paramstyle)
                connection.exec_driver_sql(statement, known)
            result.append(known)
        else:
            result.append(entry)
    return result


def _known_again(
    session: Session, connection: Connection, change: Change, entry: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    """Return the entry of a change whose row is in the log in its version or a newer one: the version goes on from that.

    Another row had the key of a created one, or others have changed the row since its object was loaded. If they have
    deleted it, there is nothing to say of its deletion.
    """
    registration = change.registration
    wanted = {"entity": registration.entity, "row_id": change.row_id}
    last = connection.execute(sql.entries.LAST_OF_ROW, wanted).one()
    versions: dict[tuple[str, str], int] = {}
    if change.last is not None:
        if last.operation == Operation.DELETE:
            return None
        change.last = newer(change.last, last)
        return _entry(session, change, now_ms(), entry[_ACTOR], versions)
    if last.operation != Operation.DELETE:
        change.operation = Operation.UPDATE  # its deletion was not captured
    if registration.version is None:
        version = max(entry[_VERSION], last.version + 1)
        keep(connection, registration, {change.row_id: version})
        versions[registration.entity, change.row_id] = version
    elif entry[_VERSION] <= last.version:
        _raise_above(session, connection, change, last.version)
    return _entry(session, change, now_ms(), entry[_ACTOR], versions)


def _go_on(session: Session, connection: Connection, change: Change, replaced: Content) -> None:
    """Raise the version of a row above that of the row before, which the transaction has deleted."""
    kept = change.registration.version is None
    if not kept and _content(session, change).version <= replaced.version:
        _raise_above(session, connection, change, replaced.version)


def _raise_above(session: Session, connection: Connection, change: Change, version: int) -> None:
    registration = change.registration
    assert registration.version is not None, "the log raises the versions that it keeps"
    row = _object(session, change)
    key = getattr(row, registration.key)
    raise_versions(connection, registration, [key], above=version)
    set_committed_value(row, registration.version, version + 1)


def _entry(
    session: Session,
    change: Change,
    committed_at: int,
    actor: str | None,
    versions: Mapping[tuple[str, str], int],
) -> tuple[Any, ...]:
    """Return the values of `arus.outbox.sql.entries.WRITTEN`.

    :param versions: that the log keeps, by entity and row id.
    """
    registration = change.registration
    content = _content(session, change)
    # A delete is a change too: its version is one above the row's last version.
    version = content.version if change.last is None else content.version + 1
    version = versions.get((registration.entity, change.row_id), version)
    data, problem, row_id = content.data, content.problem, change.row_id
    if len(row_id) > MAX_ID:
        problem = f"its id has {len(row_id)} characters; ids in messages have up to {MAX_ID}"
        row_id = row_id[:MAX_ID]
    if problem is not None:
        logger.error(
            "[MQTT Reliable Sync] change quarantined: %s %s can't be serialised (%s)",
            registration.entity,
            row_id,
            " ".join(problem.split()),
        )
    if problem is not None or data is None:  # a trigger has deleted the row along with its UPDATE
        data = mere_row(registration, row_id, version)
    return (
        new_message_id(committed_at),
        registration.entity,
        registration.topic,
        registration.qos,
        str(change.operation),
        row_id,
        version,
        committed_at,
        data,
        None if problem is None else "quarantined",
        problem,
        actor,
    )


def _content(session: Session, change: Change) -> Content:
    """Return the content of a changed row for its entry."""
    if change.last is not None:
        return change.last
    return content_of(change.registration, _object(session, change))


def _object(session: Session, change: Change) -> Any:
    """Return the session's object of a changed row."""
    row, registration = change.row, change.registration
    if row not in session:
        # Expunged since its flush, or recorded: unloaded attributes can't be loaded through this object.
        key = instance_state(row).identity or getattr(row, registration.key)
        row = session.get(registration.model, key) or row
    return row


def content_of(registration: Registration, row: Any) -> Content:
    """Return the current content of a row."""
    version = 0
    try:
        version = version_of(registration, row)
        return Content(version, registration.serialise(row))
    except Exception as error:  # noqa: BLE001  # the schema is the application's
        # Characters that a database rejects are escaped: they must not make the commit fail.
        reason = f"{type(error).__name__}: {error}".replace("\0", "\\0")[:_MAX_REASON]
        return Content(version, None, reason.encode(errors="backslashreplace").decode())


def newer(content: Content, logged: Row[Any]) -> Content:
    """Return the last content of a deleted row from its last entry, which is newer than the object.

    :param content: of the object.
    """
    if logged.outcome == "quarantined" or logged.operation == Operation.DELETE:
        return Content(logged.version, content.data, content.problem)
    return Content(logged.version, bytes(logged.data))


def change_of(operation: Operation, registration: Registration, row: Any) -> Change:
    """Return a change of a row; a delete contains the row's last content."""
    last = content_of(registration, row) if operation is Operation.DELETE else None
    return Change(operation, registration, registration.row_id(row), row, last)
