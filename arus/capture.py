"""Capture: each committed change of a registered row becomes one entry of the change log.

The entry is written in the transaction that changed the row, at its very end, so that both are committed
or neither. By then each row's own statement has run and holds the row's lock, so entries of one row are
in the order of its changes. A row changed several times in a transaction gives its net change.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    ORMExecuteState,
    PassiveFlag,
    Session,
    SessionTransaction,
    UOWTransaction,
    object_session,
)
from sqlalchemy.orm.attributes import get_history, instance_state
from sqlalchemy.sql import ClauseElement

from .counters import FAILURES, add_to_counters
from .errors import CaptureError
from .message import Operation, Receipt, new_message_id, now_ms
from .registry import Registration, Registry, mere_row

logger = logging.getLogger(__name__)

_CHANGES = "arus_changes"
_RECEIPT = "arus_receipt"
_BEFORE = "arus_before"
#: Characters of the reason why a row can't be serialised.
_MAX_REASON = 2_000

_COLUMNS = (
    "message_id", "entity", "topic", "qos", "operation", "row_id",
    "version", "committed_at", "data", "outcome", "reason",
)  # fmt: skip
_LAST = text(
    "SELECT version, data, outcome FROM arus_change"
    " WHERE entity = :entity AND row_id = :row_id ORDER BY id DESC LIMIT 1"
)
_MESSAGE_ID, _DATA, _OUTCOME = map(_COLUMNS.index, ("message_id", "data", "outcome"))

#: Engines that need no more listening to.
_prepared: weakref.WeakSet[Engine] = weakref.WeakSet()


class Sink(Protocol):
    """Who is told of captured changes, for one application."""

    def captured(self) -> None:
        """Called after a commit that captured something."""


@dataclass(slots=True)
class _Change:
    """The net change of one row so far in this transaction."""

    operation: Operation
    registration: Registration
    row_id: str
    row: Any
    #: The row as it last was, for a delete: once it is flushed, nothing can be loaded any more.
    last: tuple[int, bytes | None, str | None] | None = None


@dataclass(frozen=True, slots=True)
class _Before:
    """What is known of a row when its flush begins."""

    #: Attributes were set to SQL expressions: the mapper emits an UPDATE, whatever they evaluate to.
    expressions: bool
    #: The version that the database has; None where it is not loaded.
    version: Any


#: The changes made directly in one (nested) transaction, by entity and row id.
_Changes = dict[tuple[str, str], _Change]


@dataclass(slots=True)
class _Log:
    """The changes of a session's current transaction and its savepoints."""

    changes: dict[SessionTransaction, _Changes]
    #: The commit has begun; what is flushed from now on is written at once.
    sealed: bool = False
    #: Entries could not be written: a commit now would lose them.
    failed: bool = False
    #: Rows flushed from objects that do not have what the database has, and the attributes to load anew.
    #: None for those not loaded: of a row deleted and added anew in one flush the object knows only part.
    incomplete: list[tuple[Any, list[str] | None]] = field(default_factory=list)
    #: The savepoints whose release has begun.
    releasing: set[SessionTransaction] = field(default_factory=set)
    #: The rows whose changes were written, and what their entries hold.
    receipts: list[tuple[InstanceState[Any], Receipt]] = field(default_factory=list)


def receipt_of(row: Any) -> Receipt | None:
    """Return the receipt of the last captured change of `row` that this object took part in."""
    return instance_state(row).info.get(_RECEIPT)


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
    """Log a change of what is no row of a registered model, in the caller's transaction; return its message id.

    Whoever calls rings the bell after the commit.

    :param data: JSON.
    """
    now = now_ms()
    message_id = new_message_id(now)
    entry = (
        message_id, entity, topic, qos, operation.value, row_id, version, now, data, None, None,
    )  # fmt: skip
    connection.exec_driver_sql(_insert(connection.dialect.paramstyle), entry)
    return message_id


class Capture:
    """Listens to a session factory and writes the change log.

    :param sink: returns whom to tell, or None where nothing is captured (ashore).
    """

    def __init__(self, registry: Registry, sink: Callable[[], Sink | None]) -> None:
        self._registry = registry
        self._sink = sink

    def listen(self, session_factory: Any) -> None:
        """Attach to a `sessionmaker`, `scoped_session` or `Session` class."""
        event.listen(session_factory, "after_begin", _after_begin)
        event.listen(session_factory, "after_flush_postexec", self._after_flush_postexec)
        event.listen(session_factory, "before_commit", self._before_commit)
        event.listen(session_factory, "after_commit", self._after_commit)
        event.listen(session_factory, "after_transaction_end", self._after_transaction_end)
        event.listen(session_factory, "do_orm_execute", self._do_orm_execute)

    def watch(self, model: type[Any]) -> None:
        """Attach to a registered model."""
        # Mapper events, unlike the session's lists, also see orphans that the flush itself deletes.
        event.listen(model, "before_update", self._before_update, propagate=True)
        event.listen(model, "after_insert", self._after_insert, propagate=True)
        event.listen(model, "after_update", self._after_update, propagate=True)
        event.listen(model, "before_delete", self._before_delete, propagate=True)

    def record(self, session: Session, operation: Operation, row: Any) -> None:
        """Capture a change that was made past the ORM (raw SQL), in the session's transaction.

        :raises CaptureError: the model is not registered, no transaction has begun, there is no such row, or
            its version is not known or below 1.
        """
        registration = self._registration(row)
        if self._sink() is None:
            return
        if session.get_transaction() is None:
            raise CaptureError("a change can be captured only inside a transaction")
        self._note(session, _recorded(session, operation, registration, row))
        self._write_if_sealed(session)

    # -- what the mapper tells ------------------------------------------------------------------

    def _before_update(self, mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        state = instance_state(row)
        registration = self._registration(row)
        # Asked now: once the statement has run, nothing tells of an expression, its attribute is expired.
        expressions = _expressions(state)
        if registration.key in expressions and self._sink() is not None:
            _refuse_key(mapper, registration, expressions[registration.key])
        version = state.dict.get(registration.version)
        if version is None and mapper.version_id_col is not None:
            version = getattr(row, registration.version)  # the mapper is about to load it
        version = state.committed_state.get(registration.version, version)
        state.info[_BEFORE] = _Before(bool(expressions), version)

    def _after_insert(self, _mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        self._flushed(Operation.CREATE, row)

    def _after_update(self, mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        session = object_session(row)
        # Also called for rows that turned out to have no net change.
        if session is not None and self._is_updated(session, mapper, row):
            self._flushed(Operation.UPDATE, row)

    def _is_updated(self, session: Session, mapper: Mapper[Any], row: Any) -> bool:
        """Whether the flush has emitted an UPDATE of the row."""
        state = instance_state(row)
        before: _Before | None = state.info.pop(_BEFORE, None)
        if before is not None and before.expressions:
            return True
        if before is not None and before.version is not None:
            # Another before_update listener may have set an expression after ours had run.
            key = self._registration(row).version
            if state.dict.get(key) != before.version:
                return True
            if _raises(mapper, key):
                return _is_updated_later(mapper, row)
        return session.is_modified(row, include_collections=False)

    def _before_delete(self, _mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
        session, expressions = object_session(row), _expressions(instance_state(row))
        if session is not None and expressions:
            session.expire(row, list(expressions))  # what they would have written never is
        self._flushed(Operation.DELETE, row)

    def _flushed(self, operation: Operation, row: Any) -> None:
        session = object_session(row)
        if session is None or self._sink() is None:
            return
        registration = self._registration(row)
        if operation is Operation.UPDATE and get_history(row, registration.key).deleted:
            raise _changed_key(registration)
        self._note(session, _change(operation, registration, row))
        state = instance_state(row)
        incomplete: list[Any] = session.info[_CHANGES].incomplete
        if operation is Operation.UPDATE and state.pending:
            incomplete.append((row, None))
        # The mapper fetches no expression that is a bound value: the object would keep the expression.
        if operation is not Operation.DELETE and (expressions := _expressions(state)):
            incomplete.append((row, list(expressions)))

    def _do_orm_execute(self, state: ORMExecuteState) -> Any:
        """Capture ORM bulk statements on registered models, through RETURNING."""
        if not (state.is_update or state.is_delete or state.is_insert):
            return None
        mapper = state.bind_mapper
        registration = mapper and self._registry.of_model(mapper.class_)
        if not mapper or not registration or self._sink() is None:
            return None
        _refuse(state, registration)
        session = state.session
        if not session._flushing:
            session.flush()  # or what the statement returns would replace what is not flushed yet
        statement: Any = state.statement
        if state.is_update and mapper.version_id_col is not None:
            column = mapper.version_id_col
            statement = statement.values({column: column + 1})
        known = {id(row): row for row in session.identity_map.values()} if state.is_delete else {}
        # An object that the session already holds may be older than the row.
        options: dict[str, Any] = {"populate_existing": True}
        if state.is_update:
            # RETURNING brings each row that was changed. SQLAlchemy's own way would change objects whose row
            # was not: those of which an attribute in the condition is not loaded, after an expression, say.
            options["synchronize_session"] = False
        result = state.invoke_statement(
            statement.returning(mapper.class_), execution_options=options
        )
        rows = result.scalars().all()
        # What RETURNING has loaded is expired with the savepoint: the next change would log it otherwise.
        session._register_altered([instance_state(row) for row in rows])
        operation = (
            Operation.UPDATE
            if state.is_update
            else Operation.DELETE
            if state.is_delete
            else Operation.CREATE
        )
        for row in rows:
            self._note(session, _change(operation, registration, row))
            if state.is_delete and id(row) not in known:
                session.expunge(row)  # loaded by RETURNING alone: nobody is to find it
        self._write_if_sealed(session)
        return _BulkResult(len(rows))

    # -- what the transaction tells -------------------------------------------------------------

    def _before_commit(self, session: Session) -> None:
        if self._sink() is None:
            return
        log: _Log = session.info.setdefault(_CHANGES, _Log({}))
        nested = session.get_nested_transaction()
        if nested is None:
            session.flush()
        elif nested not in log.releasing:
            log.releasing.add(nested)
            return
        else:
            # Told twice of one savepoint: the first time was for a transaction around it, and nothing
            # will be told after the savepoint's changes have joined that.
            session.flush()
            if any(log.changes.values()):
                raise CaptureError(
                    "a transaction with changes to capture was committed while a savepoint in it was "
                    "open; end the savepoint first"
                )
            return
        if log.failed:
            raise CaptureError("changes of this transaction could not be captured; roll it back")
        log.sealed = True
        self._write_if_sealed(session)

    def _after_flush_postexec(self, session: Session, _context: UOWTransaction) -> None:
        log: _Log | None = session.info.get(_CHANGES)
        if log is None:
            return
        while log.incomplete:
            row, attributes = log.incomplete.pop()
            attributes = attributes or list(instance_state(row).unloaded)
            if attributes and row in session:
                session.expire(row, attributes)
        # Another before_commit hook may have changed rows after ours had run.
        self._write_if_sealed(session)

    def _after_commit(self, session: Session) -> None:
        log: _Log | None = session.info.get(_CHANGES)
        if log is None:
            return
        nested = session.get_nested_transaction()
        if nested is None:
            for state, receipt in log.receipts:
                state.info[_RECEIPT] = receipt
            sink = self._sink()
            if sink is not None and log.receipts:
                sink.captured()
            return
        outer = nested.parent
        while outer is not None and outer.parent is not None and not outer.nested:
            outer = outer.parent  # begun inside a flush
        if outer is not None:
            into = log.changes.setdefault(outer, {})
            for change in log.changes.pop(nested, {}).values():
                _merge(into, change)

    def _after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        log: _Log | None = session.info.get(_CHANGES)
        if log is None:
            return
        # What is still here was rolled back.
        log.changes.pop(transaction, None)
        log.releasing.discard(transaction)
        if transaction.parent is None:
            del session.info[_CHANGES]

    # -- how it is noted and written ------------------------------------------------------------

    def _registration(self, row: Any) -> Registration:
        registration = self._registry.of_model(type(row))
        if registration is None:
            raise CaptureError(f"{type(row).__name__} is not registered for reliable sync")
        return registration

    def _note(self, session: Session, change: _Change) -> None:
        transaction = session.get_nested_transaction() or session.get_transaction()
        if transaction is None:
            raise CaptureError("a change can be captured only inside a transaction")
        log: _Log = session.info.setdefault(_CHANGES, _Log({}))
        _merge(log.changes.setdefault(transaction, {}), change)

    def _write_if_sealed(self, session: Session) -> None:
        log: _Log | None = session.info.get(_CHANGES)
        transaction = session.get_nested_transaction() or session.get_transaction()
        if log is None or not log.sealed or transaction is None:
            return
        changes = log.changes.pop(transaction, None)
        if not changes:
            return
        try:
            self._write(session, log, changes)
        except BaseException:
            log.failed = True
            raise

    def _write(self, session: Session, log: _Log, changes: _Changes) -> None:
        committed_at = now_ms()
        entries = [_entry(session, change, committed_at) for change in changes.values()]
        first = next(iter(changes.values())).registration
        connection = session.connection(bind_arguments={"mapper": first.model})
        # Prepared driver SQL: an ORM or Core insert costs several times as much on each request.
        # One entry alone is spared the driver's way for many.
        parameters = entries if len(entries) > 1 else entries[0]
        connection.exec_driver_sql(_insert(connection.dialect.paramstyle), parameters)
        quarantined = sum(entry[_OUTCOME] is not None for entry in entries)
        if quarantined:
            add_to_counters(connection, {(FAILURES, "", "", ""): quarantined})
        log.receipts += [
            (
                instance_state(change.row),
                Receipt(entry[_MESSAGE_ID], entry[_DATA] if entry[_OUTCOME] is None else None),
            )
            for change, entry in zip(changes.values(), entries, strict=True)
        ]


def _after_begin(
    _session: Session, _transaction: SessionTransaction, connection: Connection
) -> None:
    engine = connection.engine
    # Asked in each transaction: SQLAlchemy's own answer takes ten times as long.
    if engine in _prepared:
        return
    if connection.dialect.name == "sqlite" and not event.contains(
        engine, "savepoint", _before_savepoint
    ):
        event.listen(engine, "savepoint", _before_savepoint)
    _prepared.add(engine)


def _before_savepoint(connection: Connection, _name: str | None) -> None:
    """Begin the transaction of a savepoint.

    Python's SQLite driver begins one for INSERT, UPDATE and DELETE alone. A savepoint outside of any is
    committed by its RELEASE: the row without its entry.
    """
    driver: Any = connection.connection.dbapi_connection
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")


class _BulkResult(IteratorResult[Any]):
    """What a captured bulk statement returns: no rows, and how many it changed."""

    def __init__(self, rowcount: int) -> None:
        super().__init__(SimpleResultMetaData([]), iter(()))
        self.rowcount = rowcount


def _change(operation: Operation, registration: Registration, row: Any) -> _Change:
    last = _serialise(registration, row) if operation is Operation.DELETE else None
    return _Change(operation, registration, registration.row_id(row), row, last)


def _expressions(state: InstanceState[Any]) -> dict[str, Any]:
    """Return the attributes that the next flush sets to SQL expressions."""
    values = ((key, state.dict.get(key)) for key in state.committed_state)
    return {
        key: value
        for key, value in values
        if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")
    }


def _raises(mapper: Mapper[Any], version: str) -> bool:
    """Whether the mapper itself raises the version with each UPDATE."""
    column = mapper.version_id_col
    return (
        column is not None
        and mapper.version_id_generator is not False
        and mapper.get_property_by_column(column).key == version
    )


def _is_updated_later(mapper: Mapper[Any], row: Any) -> bool:
    """Whether the mapper emits an UPDATE for a relationship with `post_update`: of that it tells nobody."""
    passive = PassiveFlag.PASSIVE_NO_INITIALIZE
    return any(
        relation.post_update and get_history(row, relation.key, passive).has_changes()
        for relation in mapper.relationships
    )


def _refuse_key(mapper: Mapper[Any], registration: Registration, expression: Any) -> None:
    """Raise for a primary key set to an expression, unless that is the key itself, set to raise the version."""
    if hasattr(expression, "__clause_element__"):
        expression = expression.__clause_element__()
    if not any(column.compare(expression) for column in mapper.primary_key):
        raise _changed_key(registration)


def _recorded(
    session: Session, operation: Operation, registration: Registration, row: Any
) -> _Change:
    """Return a change made past the ORM, of the row as the database has it."""
    if not session._flushing:
        session.flush()  # or what is read below would replace what is not flushed yet
    state = instance_state(row)
    key = state.identity[0] if state.identity else getattr(row, registration.key)
    if key is None:
        raise CaptureError(
            f"a {registration.model.__name__} without a primary key can't be recorded"
        )
    found = session.get(registration.model, key, populate_existing=True)
    if operation is Operation.DELETE:
        last = _last(session, registration, found or row, str(key))
        version = last[0]
    elif found is None and not state.transient:
        raise CaptureError(f"there is no {registration.model.__name__} {key} to record")
    else:
        last = None
        version = getattr(found or row, registration.version) or 0
    if int(version) < 1:
        raise CaptureError(
            f"the version of {registration.model.__name__} {key} is not known: receivers would take its"
            f" change for an old one; set {registration.version!r} to 1 or more"
        )
    return _Change(operation, registration, str(key), row, last)


def _last(
    session: Session, registration: Registration, row: Any, row_id: str
) -> tuple[int, bytes | None, str | None]:
    """Return a deleted row as it last was, by the object or by the log, whichever is newer."""
    version, data, problem = _serialise(registration, row)
    bind = {"mapper": registration.model}
    wanted = {"entity": registration.entity, "row_id": row_id}
    logged = session.execute(_LAST, wanted, bind_arguments=bind).one_or_none()
    if logged is None or logged.version <= version:
        return version, data, problem
    if logged.outcome == "quarantined":
        return logged.version, data, problem
    return logged.version, bytes(logged.data), None


def _refuse(state: ORMExecuteState, registration: Registration) -> None:
    """Raise for a bulk statement of which not every change would be known."""
    name = registration.model.__name__
    statement: Any = state.statement
    if state.is_from_statement or statement._returning:
        raise CaptureError(
            f"a bulk statement on {name} can't have a RETURNING of its own: "
            "reliable sync needs it to capture the rows"
        )
    if state.is_insert and (
        statement._post_values_clause is not None
        or any("REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes)
    ):
        raise CaptureError(
            f"an upsert of {name} can't be captured: it does not tell which rows "
            "it made and which it changed; use session.merge or sync.record"
        )
    if state.is_update and isinstance(state.parameters, list):
        raise CaptureError(
            f"a bulk update of {name} by primary key can't be captured: it has no RETURNING; "
            "change the rows in the session, or use update().where()"
        )
    if state.is_update:
        named = {*(statement._values or ()), *(state.parameters or ())}
        if registration.key in {getattr(column, "key", column) for column in named}:
            raise _changed_key(registration)


def _changed_key(registration: Registration) -> CaptureError:
    return CaptureError(
        f"the primary key of a {registration.model.__name__} can't be changed: "
        "whoever follows the changes would keep the old row; delete it and add a new one"
    )


def _merge(into: _Changes, change: _Change) -> None:
    """Fold a later change of a row into what the transaction has done to it so far."""
    key = (change.registration.entity, change.row_id)
    earlier = into.get(key)
    if earlier is None:
        into[key] = change
    elif earlier.operation is Operation.CREATE and change.operation is Operation.DELETE:
        del into[key]
    elif earlier.operation is Operation.CREATE:
        earlier.row = change.row
    elif earlier.operation is Operation.DELETE and change.operation is Operation.CREATE:
        into[key] = _Change(Operation.UPDATE, change.registration, change.row_id, change.row)
    else:
        into[key] = change


def _serialise(registration: Registration, row: Any) -> tuple[int, bytes | None, str | None]:
    """Return version, JSON and, where it can't be serialised, the reason instead of the JSON."""
    version = 0
    try:
        version = int(getattr(row, registration.version) or 0)
        return version, registration.serialise(row), None
    except Exception as error:  # noqa: BLE001  # the schema is the application's
        # What a database would not take must not fail the commit after all.
        reason = f"{type(error).__name__}: {error}".replace("\0", "\\0")[:_MAX_REASON]
        return version, None, reason.encode(errors="backslashreplace").decode()


def _entry(session: Session, change: _Change, committed_at: int) -> tuple[Any, ...]:
    registration = change.registration
    row = change.row
    state = instance_state(row)
    if change.last is not None:
        # A delete is a change too: one more than the version that the row last had.
        version, data, problem = change.last
        version += 1
    else:
        if row not in session:
            # Expunged since its flush, or recorded: what it lacks can't be loaded through it.
            key = state.identity or getattr(row, registration.key)
            row = session.get(registration.model, key) or row
        version, data, problem = _serialise(registration, row)
    message_id = new_message_id(committed_at)
    if problem is not None:
        logger.error(
            "[MQTT Reliable Sync] change quarantined: it can't be serialised",
            extra={"entity": registration.entity, "row_id": change.row_id, "reason": problem},
        )
        data = mere_row(registration, change.row_id, version)
    return (
        message_id,
        registration.entity,
        registration.topic,
        registration.qos,
        change.operation.value,
        change.row_id,
        version,
        committed_at,
        data,
        "quarantined" if problem is not None else None,
        problem,
    )


@cache
def _insert(paramstyle: str) -> str:
    placeholder = "?" if paramstyle == "qmark" else "%s"
    marks = ", ".join([placeholder] * len(_COLUMNS))
    return f"INSERT INTO arus_change ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608  # constants only
