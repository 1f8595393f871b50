"""Finds the rows that statements outside the ORM's unit of work change, told by the connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    CTE,
    Column,
    Connection,
    CursorResult,
    Delete,
    Insert,
    Update,
    UpdateBase,
)
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.sql.visitors import iterate

from arus.errors import CaptureError
from arus.protocol.entries import Operation
from arus.registry import Registration

from .affected import (
    Affected,
    changes_of,
    contents,
    loaded_in,
    lock,
    matching_keys,
    stale_attributes,
)
from .cascades import cascades_of, reached_rows
from .engines import CapturedEngine, open_reader, session_of
from .flush import changed_key, is_flushing
from .inserts import (
    given_keys,
    is_upsert,
    is_upsert_by,
    may_change_key,
    replaces,
    upserted_columns,
    with_keys,
)
from .logged import logged_contents
from .pending import Change, innermost, note, pending_of
from .results import kept_rows, returned_keys, returns_key, with_returned_key, without_rows
from .tables import RegisteredTables, key_column, may_change_class, named_columns, table_of
from .textual import NOTHING, SqlTexts
from .uncaptured import is_migrating, place_of_caller, report_uncaptured
from .versions import CAPTURED
from .writer import write_changes, write_if_sealed

_Parameters = Sequence[Mapping[str, Any]]


#: What is called with the result of an executed statement.
_Finish = Callable[[CursorResult[Any]], None]


class Statements:
    """Notes the rows that statements on an engine change, other than those of flushes and the ORM's bulk statements."""

    def __init__(self, captured: CapturedEngine) -> None:
        self._registry = captured.registry
        self._tables = RegisteredTables(captured.registry)
        self._texts = SqlTexts(self._tables)
        self._ctes = SqlTexts(self._tables, in_ctes=True)

    # -- statements of SQLAlchemy ------------------------------------------------------------------

    def touches(self, statement: UpdateBase) -> bool:
        """Whether a statement may change registered rows, by its table alone: most do not."""
        table = table_of(statement)
        if self._tables.of(table):
            return True
        if isinstance(statement, Delete):
            return bool(self._tables.cascades(table))
        return self.reaches(statement)

    def reaches(self, statement: UpdateBase) -> bool:
        """Whether an UPDATE may change rows of other tables along with its own, by its table alone."""
        return isinstance(statement, Update) and bool(self._tables.updates(table_of(statement)))

    def begin(
        self,
        connection: Connection,
        statement: UpdateBase,
        parameters: _Parameters,
        options: Mapping[str, Any],
    ) -> tuple[UpdateBase, _Finish | None]:
        """Read what a statement is about to change; return it as it must be executed, and what then to call.

        :param parameters: of each execution.
        :param options: the execution options.
        """
        table = table_of(statement)
        registrations = self._tables.of(table)
        has_cascades = bool(cascades_of(self._tables, statement, parameters))
        if not registrations and not has_cascades:
            return statement, None
        session = session_of(connection)
        if is_flushed(session, options) or CAPTURED in options:
            registrations = []
        if not registrations and not has_cascades:
            return statement, None
        entities = {one.entity for one in registrations} or {str(table)}
        if is_migrating(connection):
            return statement, lambda _: report_uncaptured(connection, entities)
        if session is not None and not session._flushing:
            session.flush()  # or the rows would be read, and expired, without unflushed changes
        watched = _Watched(self._registry, self._tables, connection, session, registrations)
        # The mappers' own statements are by key.
        may_return = "compiled_cache" not in options and len(parameters) == 1
        try:
            executed, finish = watched.begin(statement, parameters, may_return=may_return)
        except CaptureError:
            if session is not None:
                raise
            return statement, lambda _: report_uncaptured(connection, entities)
        if session is not None:
            return executed, finish
        return executed, _reporting(connection, entities, finish)

    def refuse_wrapped(self, connection: Connection, statement: Any) -> None:
        """Refuse to execute `select().from_statement()` of a statement that changes registered rows.

        :raises CaptureError: it does; without a session it is reported.
        """
        registrations = self._tables.of(table_of(statement.element))
        if not registrations:
            return
        if session_of(connection) is None:
            report_uncaptured(connection, {one.entity for one in registrations})
            return
        raise CaptureError(
            f"a bulk statement on {registrations[0].model.__name__} can't be captured inside"
            " select().from_statement(): execute the statement itself"
        )

    # -- SQL texts ---------------------------------------------------------------------------------

    def note_text(
        self, connection: Connection, text: str, result: CursorResult[Any], *, in_ctes: bool
    ) -> None:
        """Note what an executed SQL text has written.

        :param in_ctes: only what its CTEs have.
        """
        written = (self._ctes if in_ctes else self._texts).written(text)
        if written is NOTHING:
            return
        rows = result.rowcount
        if written.is_counted and rows < 1 and result.returns_rows:
            rows = len(kept_rows(result))  # SQLite counts them when they have been fetched
        if written.is_counted and rows == 0:
            return
        session = session_of(connection)
        transaction = innermost(session) if session is not None else None
        if session is None or transaction is None:
            report_uncaptured(connection, written.entities | written.reached)
            return
        if written.entities:
            pending = pending_of(session)
            pending.owe(transaction, written.entities, max(1, rows), place_of_caller())
        if written.reached:
            report_uncaptured(connection, written.reached)


def _reporting(connection: Connection, entities: set[str], finish: _Finish) -> _Finish:
    """Return what to call instead of `finish` on a connection without a session: it refuses nothing."""

    def call(result: CursorResult[Any]) -> None:
        try:
            finish(result)
        except CaptureError:
            report_uncaptured(connection, entities)

    return call


def is_flushed(session: Session | None, options: Any) -> bool:
    """Whether a flush executes a statement whose rows the mappers report.

    They do not report those of a relationship's table: its statements have no `compiled_cache`.
    """
    return "compiled_cache" in options and session is not None and is_flushing(session)


class _Watched:
    """Captures one statement."""

    def __init__(
        self,
        registry: Any,
        tables: RegisteredTables,
        connection: Connection,
        session: Session | None,
        registrations: Sequence[Registration],
    ) -> None:
        self._registry = registry
        self._tables = tables
        self._connection = connection
        self._session = session
        self._registrations = registrations
        self._deletes = False

    def begin(
        self, statement: UpdateBase, parameters: _Parameters, *, may_return: bool
    ) -> tuple[UpdateBase, _Finish]:
        """Read the rows that are about to change; return the statement to execute, and what to call with its result.

        :param may_return: an UPDATE or DELETE may be given a RETURNING of its keys.
        :raises CaptureError: the changes can't be captured.
        """
        self._deletes = isinstance(statement, Delete)
        keys = self._key_columns(statement)
        if isinstance(statement, Insert):
            return self._begin_insert(statement, parameters, keys)
        if isinstance(statement, Update):
            _refuse_keys(statement, parameters, self._registrations, keys)
        with open_reader(self._connection) as reader:
            rows = self._matching(reader, statement, parameters, keys)
            reached: list[Affected] = []
            if isinstance(statement, Delete | Update):
                reached = reached_rows(reader, self._registry, self._tables, statement, parameters)
        key = next(iter(keys.values()), None)
        if key is None:
            return statement, lambda _: self._capture(reached)
        executed = statement
        if may_return and isinstance(statement, Delete | Update):
            executed = with_returned_key(self._connection, statement, key)

        def finish(result: CursorResult[Any]) -> None:
            if returns_key(executed, key):
                returned = returned_keys(result, executed, key)
                self._correct(rows, {*returned})
                if executed is not statement:
                    without_rows(result, len(returned))
            elif len(parameters) == 1 and result.rowcount > len(
                rows[0].before.keys() | rows[0].created
            ):
                raise _unread(self._registrations[0])
            self._capture([*rows, *reached])

        return executed, finish

    def _correct(self, rows: list[Affected], changed: set[Any]) -> None:
        """Correct which rows a statement has changed, after it was executed.

        Others may have committed rows that meet its condition since that was read, or the condition is not the same
        each time (`random()`).

        :param changed: the keys that the statement has returned.
        :raises CaptureError: it has deleted rows that the log does not know.
        """
        unread = changed.difference(rows[0].before, rows[0].created)
        for one in rows:
            one.before = {key: content for key, content in one.before.items() if key in changed}
            one.created &= changed
        if not unread:
            return
        unknown = unread
        for registration in self._registrations:
            logged = logged_contents(self._connection, registration, unread)
            unknown = unknown - logged.keys()
            made = unread - logged.keys()
            rows.append(Affected(registration, logged, made, is_unsure=True))
        if self._deletes and unknown:
            raise _unread(self._registrations[0])

    def _key_columns(self, statement: UpdateBase) -> dict[str, Column[Any]]:
        """Return the statement's column with the key of each entity."""
        found = {}
        for registration in self._registrations:
            table = table_of(statement)
            key = key_column(table, registration)
            if key is None:
                raise CaptureError(
                    f"a statement on {table} can't be captured: it does not know the table's primary key;"
                    " use the model, or sync.record"
                )
            found[registration.entity] = key
        return found

    def _matching(
        self,
        reader: Session,
        statement: Any,
        parameters: _Parameters,
        keys: Mapping[str, Column[Any]],
    ) -> list[Affected]:
        if any(
            isinstance(one, CTE) and one.element.is_dml for one in iterate(statement.whereclause)
        ):
            raise CaptureError(
                f"a statement on {table_of(statement)} with a DML in a CTE of its condition can't be captured:"
                " reading its rows first would execute that twice"
            )
        found = []
        names = named_columns(statement, parameters) if isinstance(statement, Update) else set()
        for registration in self._registrations:
            column = keys[registration.entity]
            lock(self._connection)
            matching = matching_keys(self._connection, column, statement.whereclause, parameters)
            data = isinstance(statement, Delete) or may_change_class(registration, names)
            before = contents(reader, self._registry, registration, matching, data=data)
            # Of other classes: a new discriminator makes them rows of this model.
            others = {*matching} - before.keys()
            found.append(Affected(registration, before, others))
        return found

    def _begin_insert(
        self, statement: Insert, parameters: _Parameters, keys: Mapping[str, Column[Any]]
    ) -> tuple[Insert, _Finish]:
        key = next(iter(keys.values()))
        given = given_keys(statement, parameters, key)
        name = self._registrations[0].model.__name__
        if replaces(statement):
            raise CaptureError(
                f"INSERT OR REPLACE of {name} can't be captured: it deletes rows and does not say which;"
                " use session.merge, ON CONFLICT DO UPDATE or sync.record"
            )
        is_exact = not statement._returning or returns_key(statement, key)
        if given is None and not is_exact:
            raise _without_keys(self._registrations[0])
        if may_change_key(statement, key):
            raise changed_key(self._registrations[0])
        if self._reaches_others(statement):
            raise CaptureError(
                f"an upsert of {name} that sets a key which rows of other tables refer to can't be captured: the database"
                " changes these along with it; use the session or an UPDATE"
            )
        if is_upsert(statement) and not is_exact and not is_upsert_by(statement, key):
            raise CaptureError(
                f"an upsert of {name} with a RETURNING of its own can't be captured: it may change rows with other keys;"
                " let it return its key too"
            )
        # Without the keys that it returns, a row that an upsert has left as it was is recognised by its content.
        existing = [Affected(one, written=is_exact) for one in self._registrations]
        if is_upsert(statement) and given is not None:
            with open_reader(self._connection) as reader:
                lock(self._connection)
                names = upserted_columns(statement)
                for one in existing:
                    data = not is_exact or may_change_class(one.registration, names)
                    one.before = contents(
                        reader, self._registry, one.registration, given, data=data
                    )
        executed = with_keys(statement, len(parameters), key)

        def finish(result: CursorResult[Any]) -> None:
            made = {*(returned_keys(result, executed, key) if is_exact else given or ())}
            if None in made:
                raise _without_keys(self._registrations[0])
            # An upsert may have found a row by another key: only of those that it was given it is known.
            unsure = made.difference(given or ()) if is_upsert(executed) else set()
            self._finish_insert(existing, made, unsure)

        return executed, finish

    def _reaches_others(self, statement: Insert) -> bool:
        """Whether an upsert may change rows of other tables along with its own."""
        updates = self._tables.updates(table_of(statement))
        names = upserted_columns(statement) if updates and is_upsert(statement) else set()
        return any(column.key in names for one in updates for column in one.referred)

    def _finish_insert(self, existing: list[Affected], keys: set[Any], unsure: set[Any]) -> None:
        """Capture the rows with these keys.

        :param unsure: those that may have existed before, if nothing was read of them.
        """
        found = []
        for one in existing:
            one.before = {key: content for key, content in one.before.items() if key in keys}
            one.created = keys - unsure - one.before.keys()
            others = unsure - one.before.keys()
            logged = logged_contents(self._connection, one.registration, others)
            made = others - logged.keys()
            found += [one, Affected(one.registration, logged, made, is_unsure=True)]
        self._capture(found)

    def _capture(self, rows: Sequence[Affected]) -> None:
        with open_reader(self._connection) as reader:
            found: dict[tuple[str, str], Change] = {}
            for affected in rows:
                if not affected.before and not affected.created:
                    continue
                for change in changes_of(self._connection, reader, self._registry, affected):
                    # A row that refers to another deleted row of its table is found twice.
                    found.setdefault((change.registration.entity, change.row_id), change)
            changes = list(found.values())
            if self._session is None:
                write_changes(reader, changes)
        if self._session is not None:
            _note_all(self._session, changes, deletes=self._deletes)


def _note_all(session: Session, changes: Sequence[Change], *, deletes: bool) -> None:
    """Note the changes that a statement has made in a session's transaction.

    :param deletes: the statement is a DELETE. What another one takes from an entity has become a row of another class.
    """
    in_flush = is_flushing(session)
    for change in changes:
        loaded = loaded_in(session, change)
        if loaded is not None:
            change.row = loaded
            # Expires it if the savepoint is rolled back.
            session._register_altered([instance_state(loaded)])
            attributes = stale_attributes(loaded)
            if in_flush and attributes:
                pending_of(session).incomplete.append((loaded, attributes))
            elif change.operation is Operation.DELETE and not deletes and not in_flush:
                session._remove_newly_deleted([instance_state(loaded)])
            elif attributes and change.operation is not Operation.DELETE:
                session.expire(loaded, attributes)
        note(session, change)
    if not in_flush:
        write_if_sealed(session)


def _without_keys(registration: Registration) -> CaptureError:
    """Return the error for an INSERT whose rows can't be found."""
    return CaptureError(
        f"an insert of {registration.model.__name__} can't be captured: its rows have no known keys; if it has a"
        " RETURNING of its own, let it return its key too, else give the rows their keys, or add them to the session"
    )


def _unread(registration: Registration) -> CaptureError:
    """Return the error for a statement that has changed rows which were not read before it."""
    return CaptureError(
        f"a statement on {registration.model.__name__} has changed rows that did not meet its condition just before: others have"
        " committed them meanwhile, or the condition is not the same each time; repeat the transaction, or select the"
        " keys first"
    )


def _refuse_keys(
    statement: Update,
    parameters: _Parameters,
    registrations: Sequence[Registration],
    keys: Mapping[str, Column[Any]],
) -> None:
    """Raise if an UPDATE sets a primary key."""
    names = named_columns(statement, parameters)
    for registration in registrations:
        if keys[registration.entity].key in names:
            raise changed_key(registration)
