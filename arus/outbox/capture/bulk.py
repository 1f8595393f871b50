"""Finds the rows that the ORM's bulk statements change, by `RETURNING`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Alias, Column, Row, func, inspect
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData, result_tuple
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from arus.errors import CaptureError
from arus.protocol.entries import Operation
from arus.registry import Registration

from .engines import engine_of
from .flush import changed_key
from .pending import note
from .tables import is_ordered, named_columns, subject_of
from .versions import (
    CAPTURED,
    grows_by_itself,
    may_repeat,
    raise_versions,
    version_column,
    version_of,
)
from .writer import change_of, write_if_sealed

#: Executes a statement with execution options in addition to its own.
Invoke = Callable[[Any, Mapping[str, Any]], Any]


class BulkStatement(Struct):
    """An INSERT, UPDATE or DELETE that a session is told to execute on a mapped class."""

    session: Session
    statement: Any
    #: A list where it is executed once for each.
    parameters: Any
    options: Mapping[str, Any]
    bind_arguments: Mapping[str, Any]


class BulkResult(IteratorResult[Any]):
    """The result of a captured bulk statement: no rows, but what SQLAlchemy's own tells of such a statement.

    :param keys: the primary keys of inserted rows, one tuple each; None for another statement.
    :param is_many: the statement was executed once for each of a list.
    """

    returns_rows = False

    def __init__(
        self, rowcount: int, keys: Sequence[Row[Any]] | None = None, *, is_many: bool = False
    ) -> None:
        super().__init__(SimpleResultMetaData([]), iter(()))
        self.rowcount = rowcount
        self._keys = keys
        self._is_many = is_many

    @property
    def is_insert(self) -> bool:
        """Whether rows were inserted."""
        return self._keys is not None

    @property
    def inserted_primary_key_rows(self) -> Sequence[Row[Any]]:
        """The primary keys of the inserted rows."""
        if self._keys is None:
            raise InvalidRequestError("Statement is not an insert() expression construct.")
        return self._keys

    @property
    def inserted_primary_key(self) -> Row[Any] | None:
        """The primary key of the inserted row."""
        if self._is_many:
            raise InvalidRequestError(
                "This statement was an executemany call: use .inserted_primary_key_rows."
            )
        return next(iter(self.inserted_primary_key_rows), None)

    @property
    def lastrowid(self) -> int | None:
        """The primary key of the last inserted row, if it is a number."""
        key = self._keys[-1][0] if self._keys else None
        return key if isinstance(key, int) else None


def registration_of(bulk: BulkStatement) -> Registration | None:
    """Return the registration of the rows that a statement changes; None if it is left to SQLAlchemy.

    :raises CaptureError: its changes can't all be captured.
    """
    subject = subject_of(bulk.statement)
    # Registered models have listeners of ours; asking for the engine takes longer.
    if subject is None or not subject.mapper.dispatch.after_insert or CAPTURED in bulk.options:
        return None
    mapper: Mapper[Any] = subject.mapper
    binds = {"mapper": mapper, "clause": bulk.statement, **bulk.bind_arguments}
    engine = engine_of(bulk.session.get_bind(**binds))
    registration = engine and engine.registry.of_model(mapper.class_)
    if not registration:
        return None
    _refuse(bulk, registration)
    return None if _is_watched(bulk, mapper, registration) else registration


def execute(bulk: BulkStatement, registration: Registration, invoke: Invoke) -> BulkResult:
    """Execute a bulk statement and note its rows."""
    session, statement = bulk.session, bulk.statement
    if not session._flushing:
        session.flush()  # or the returned rows would overwrite unflushed changes
    known = {id(row): row for row in session.identity_map.values()} if statement.is_delete else {}
    rows = _changed_rows(bulk, registration, invoke)
    # Expires these rows if the savepoint is rolled back: otherwise the next change would log stale values.
    session._register_altered([instance_state(row) for row in rows])
    operation = _operation(statement)
    if statement.is_insert:
        _give_versions(bulk, registration, rows)
    for row in rows:
        note(session, change_of(operation, registration, row))
        if statement.is_delete and id(row) not in known:
            session.expunge(row)  # only RETURNING has loaded it: it must not stay in the session
    write_if_sealed(session)
    if not statement.is_insert:
        return BulkResult(len(rows))
    key: Any = result_tuple([registration.key])
    keys = [key((getattr(row, registration.key),)) for row in rows]
    return BulkResult(len(rows), keys, is_many=isinstance(bulk.parameters, list))


def _changed_rows(bulk: BulkStatement, registration: Registration, invoke: Invoke) -> Sequence[Any]:
    """Execute a statement, and return the changed rows as they are afterwards (deleted rows: as they were)."""
    statement = bulk.statement
    mapper: Mapper[Any] = subject_of(statement).mapper
    if statement.is_update:
        column = mapper.version_id_col if registration.version is not None else None
        if column is None and not grows_by_itself(registration):
            column = version_column(registration)
        if column is not None:
            statement = statement.values({column: func.coalesce(column, 0) + 1})
    # An object that is already in the session may be older than its row.
    options: dict[str, Any] = {"populate_existing": True, CAPTURED: True}
    if statement.is_update:
        # RETURNING loads each changed row. SQLAlchemy's own synchronisation would also change objects whose row
        # was not changed: those with an unloaded attribute in the condition, for example after an expression.
        options["synchronize_session"] = False
    found: Sequence[Any] = invoke(statement.returning(mapper.class_), options).scalars().all()
    return found


def _give_versions(bulk: BulkStatement, registration: Registration, rows: Sequence[Any]) -> None:
    """Give inserted rows that have no version the first one."""
    if registration.version is None:
        return
    bare = [row for row in rows if version_of(registration, row) < 1]
    connection = bulk.session.connection(bind_arguments=dict(bulk.bind_arguments))
    keys = [getattr(row, registration.key) for row in bare]
    raise_versions(connection, registration, keys, above=0)
    for row in bare:
        set_committed_value(row, registration.version, 1)


def _names_version(bulk: BulkStatement, registration: Registration) -> bool:
    """Whether an UPDATE sets the version itself."""
    return version_column(registration).key in named_columns(
        bulk.statement, [bulk.parameters or {}]
    )


def _operation(statement: Any) -> Operation:
    if statement.is_update:
        return Operation.UPDATE
    return Operation.DELETE if statement.is_delete else Operation.CREATE


def _is_watched(bulk: BulkStatement, mapper: Mapper[Any], registration: Registration) -> bool:
    """Whether a statement's rows are found by `statements`: it can't be given a RETURNING for them."""
    statement = bulk.statement
    # A row may have columns in tables that the statement does not name, be of a model registered otherwise, or become one.
    inherits = (
        mapper.inherits is not None
        or len(mapper.tables) > 1
        or len(list(mapper.self_and_descendants)) > 1
    )
    return bool(
        statement._returning
        or isinstance(statement.table, Alias)
        or (inherits and not statement.is_insert)
        or (statement.is_insert and statement._post_values_clause is not None)
        or (statement.is_update and isinstance(bulk.parameters, list))
        or (statement.is_update and is_ordered(statement))
        # An expression of the row can't be loaded any more.
        or (statement.is_delete and _has_expressions(mapper))
        # The version that it sets may be one that a row had before.
        or (statement.is_update and may_repeat(registration) and _names_version(bulk, registration))
    )


def _has_expressions(mapper: Mapper[Any]) -> bool:
    """Whether an attribute of a model is no column: RETURNING does not load it."""
    return any(not isinstance(each.columns[0], Column) for each in mapper.column_attrs)


def _refuse(bulk: BulkStatement, registration: Registration) -> None:
    """Raise for a bulk statement whose changes can't all be captured."""
    name = registration.model.__name__
    statement = bulk.statement
    if statement.is_insert and any(
        "REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes
    ):
        raise CaptureError(
            f"INSERT OR REPLACE of {name} can't be captured: it deletes rows and does not say which;"
            " use session.merge, ON CONFLICT DO UPDATE or sync.record"
        )
    if statement.is_update and not isinstance(bulk.parameters, list):
        (key,) = inspect(registration.model).primary_key
        if key.key in named_columns(statement, [bulk.parameters or {}]):
            raise changed_key(registration)
