"""Finds the rows that the ORM's bulk statements change, by `RETURNING`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import Mapper, ORMExecuteState
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from arus.errors import CaptureError
from arus.protocol.entries import Operation
from arus.registry import Registration

from .engines import engine_of
from .flush import changed_key
from .pending import note
from .versions import (
    CAPTURED,
    grows_by_itself,
    raise_versions,
    version_column,
    version_of,
)
from .writer import change_of, write_if_sealed


class BulkResult(IteratorResult[Any]):
    """The result of a captured bulk statement: no rows, only the number of changed rows."""

    def __init__(self, rowcount: int) -> None:
        super().__init__(SimpleResultMetaData([]), iter(()))
        self.rowcount = rowcount


def execute(state: ORMExecuteState) -> BulkResult | None:
    """Execute a bulk statement and note its rows; return None for a statement that is left to SQLAlchemy."""
    # This runs for each statement of each request.
    if state.is_select or not (state.is_update or state.is_delete or state.is_insert):
        return None
    mapper = state.bind_mapper
    # Registered models have listeners of ours; asking for the engine takes longer.
    if mapper is None or not mapper.dispatch.after_insert:
        return None
    engine = engine_of(state.session.get_bind(**state.bind_arguments))
    registration = engine and engine.registry.of_model(mapper.class_)
    if not registration:
        return None
    _refuse(state, registration)
    if _is_watched(state, mapper):
        return None
    return _execute(state, mapper, registration)


def _execute(state: ORMExecuteState, mapper: Mapper[Any], registration: Registration) -> BulkResult:
    session = state.session
    if not session._flushing:
        session.flush()  # or the returned rows would overwrite unflushed changes
    known = {id(row): row for row in session.identity_map.values()} if state.is_delete else {}
    rows = _changed_rows(state, mapper, registration)
    # Expires these rows if the savepoint is rolled back: otherwise the next change would log stale values.
    session._register_altered([instance_state(row) for row in rows])
    operation = _operation(state)
    if state.is_insert:
        _give_versions(state, registration, rows)
    for row in rows:
        note(session, change_of(operation, registration, row))
        if state.is_delete and id(row) not in known:
            session.expunge(row)  # only RETURNING has loaded it: it must not stay in the session
    write_if_sealed(session)
    return BulkResult(len(rows))


def _changed_rows(
    state: ORMExecuteState, mapper: Mapper[Any], registration: Registration
) -> Sequence[Any]:
    """Execute a statement, and return the changed rows as they are afterwards (deleted rows: as they were)."""
    statement: Any = state.statement
    if state.is_update:
        column = mapper.version_id_col if registration.version is not None else None
        if column is None and not _sets_version(state, registration):
            column = version_column(registration)
        if column is not None:
            statement = statement.values({column: func.coalesce(column, 0) + 1})
    # An object that is already in the session may be older than its row.
    options: dict[str, Any] = {"populate_existing": True, CAPTURED: True}
    if state.is_update:
        # RETURNING loads each changed row. SQLAlchemy's own synchronisation would also change objects whose row
        # was not changed: those with an unloaded attribute in the condition, for example after an expression.
        options["synchronize_session"] = False
    result = state.invoke_statement(statement.returning(mapper.class_), execution_options=options)
    return result.scalars().all()


def _give_versions(state: ORMExecuteState, registration: Registration, rows: Sequence[Any]) -> None:
    """Give inserted rows that have no version the first one."""
    if registration.version is None:
        return
    bare = [row for row in rows if version_of(registration, row) < 1]
    connection = state.session.connection(bind_arguments=state.bind_arguments)
    keys = [getattr(row, registration.key) for row in bare]
    raise_versions(connection, registration, keys, above=0)
    for row in bare:
        set_committed_value(row, registration.version, 1)


def _sets_version(state: ORMExecuteState, registration: Registration) -> bool:
    """Whether a statement sets the version itself, or the database does."""
    statement: Any = state.statement
    named = {*(statement._values or ()), *(state.parameters or ())}
    names = {getattr(column, "key", column) for column in named}
    return grows_by_itself(registration) or registration.version in names


def _operation(state: ORMExecuteState) -> Operation:
    if state.is_update:
        return Operation.UPDATE
    return Operation.DELETE if state.is_delete else Operation.CREATE


def _is_watched(state: ORMExecuteState, mapper: Mapper[Any]) -> bool:
    """Whether a statement's rows are found by `statements`: it can't be given a RETURNING for them."""
    statement: Any = state.statement
    # A row may have columns in tables that the statement does not name, or be of a model registered otherwise.
    inherits = len(mapper.tables) > 1 or len(list(mapper.self_and_descendants)) > 1
    return bool(
        statement._returning
        or (inherits and not state.is_insert)
        or (state.is_insert and statement._post_values_clause is not None)
        or (state.is_update and isinstance(state.parameters, list))
    )


def _refuse(state: ORMExecuteState, registration: Registration) -> None:
    """Raise for a bulk statement whose changes can't all be captured."""
    name = registration.model.__name__
    statement: Any = state.statement
    if state.is_from_statement:
        raise CaptureError(
            f"a bulk statement on {name} can't be captured inside select().from_statement():"
            " execute the statement itself"
        )
    if state.is_insert and any(
        "REPLACE" in str(prefix).upper() for prefix, _ in statement._prefixes
    ):
        raise CaptureError(
            f"INSERT OR REPLACE of {name} can't be captured: it deletes rows and does not say which;"
            " use session.merge, ON CONFLICT DO UPDATE or sync.record"
        )
    if state.is_update and not isinstance(state.parameters, list):
        named = {*(statement._values or ()), *(state.parameters or ())}
        if registration.key in {getattr(column, "key", column) for column in named}:
            raise changed_key(registration)
