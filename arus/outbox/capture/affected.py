"""The rows that a statement outside the ORM's unit of work changes: read before and after it.

The ORM reports the rows of its own flushes. For other statements (Core, the legacy bulk methods, what the database
changes by itself along with a deletion) the rows are found by the statement's own condition before it is executed,
and read again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Column, Connection, inspect, select
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.util import identity_key

from arus.database import chunks
from arus.outbox import sql
from arus.outbox.row_versions import keep_first
from arus.protocol.entries import Operation
from arus.registry import Registration, Registry

from .pending import Change, Content
from .versions import raise_versions, version_of
from .writer import content_of


class Affected(Struct):
    """The rows of one registered model that a statement may change."""

    registration: Registration
    #: The content of each row before the statement, by key; without data where that is not needed.
    before: dict[Any, Content] = field(default_factory=dict)
    #: Rows that the statement has created, or may have made rows of this model.
    created: set[Any] = field(default_factory=set)
    #: The statement itself writes these rows, so each of them counts as changed.
    written: bool = True
    #: Rows in `created` may have existed before, with the version that they have now.
    is_unsure: bool = False


def lock(connection: Connection) -> None:
    """Take SQLite's write lock, so that no other writer changes the rows between reading and the statement."""
    if connection.dialect.name != "sqlite":
        return
    driver: Any = connection.connection.dbapi_connection
    if not driver.in_transaction:
        # A write, for which drivers begin a transaction as they do for every other.
        connection.exec_driver_sql(sql.session.TAKE_WRITE_LOCK)


def matching_keys(
    connection: Connection,
    column: Column[Any],
    condition: Any,
    parameters: Iterable[Mapping[str, Any]],
) -> list[Any]:
    """Return the keys of the rows that meet a statement's condition, and lock these rows.

    :param condition: the statement's `whereclause`.
    :param parameters: of each execution.
    """
    statement = select(column)
    if condition is not None:
        statement = statement.where(condition)
    if connection.dialect.name != "sqlite":
        statement = statement.with_for_update(of=column.table)
    found: dict[Any, None] = {}
    for each in parameters:
        found.update(dict.fromkeys(connection.execute(statement, dict(each)).scalars()))
    return list(found)


def load(session: Session, registration: Registration, keys: Iterable[Any]) -> dict[Any, Any]:
    """Return the rows of a registered model by key, as they are in the database now."""
    key = getattr(registration.model, registration.key)
    found: dict[Any, Any] = {}
    for chunk in chunks(keys):
        statement = select(registration.model).where(key.in_(chunk))
        rows = session.scalars(statement, execution_options={"populate_existing": True})
        found.update((getattr(row, registration.key), row) for row in rows.unique())
    return found


def contents(
    session: Session,
    registry: Registry,
    registration: Registration,
    keys: Iterable[Any],
    *,
    data: bool,
) -> dict[Any, Content]:
    """Return the contents of rows by key: of those that the registration is for.

    :param data: whether the data is needed, or only the version.
    """
    rows = load(session, registration, keys)
    return {
        key: content_of(registration, row) if data else Content(version_of(registration, row), None)
        for key, row in rows.items()
        if registry.of_model(type(row)) is registration
    }


def changes_of(
    connection: Connection, reader: Session, registry: Registry, affected: Affected
) -> list[Change]:
    """Return what has become of rows, and raise the versions of changed rows where the statement has not.

    :param reader: a session that reads in the connection's transaction.
    """
    registration = affected.registration
    rows = load(reader, registration, [*affected.before, *affected.created])
    changed = {
        key: row
        for key, row in rows.items()
        if registry.of_model(type(row)) is registration and _is_changed(affected, key, row)
    }
    if registration.version is None and affected.is_unsure:
        keep_first(connection, registration, map(str, affected.created))
    if stale := _raise_versions(connection, affected, changed):
        changed.update(load(reader, registration, stale))
    deleted = [
        Change(Operation.DELETE, registration, str(key), stand_in(registration, key), content)
        for key, content in affected.before.items()
        if key not in rows
    ]
    return deleted + [
        Change(
            Operation.UPDATE if key in affected.before else Operation.CREATE,
            registration,
            registration.row_id(row),
            row,
            may_be_known=affected.is_unsure,
        )
        for key, row in changed.items()
    ]


def _raise_versions(
    connection: Connection, affected: Affected, changed: Mapping[Any, Any]
) -> list[Any]:
    """Raise the versions of changed rows above those before the statement; return the keys of the raised rows."""
    registration = affected.registration
    if registration.version is None:
        return []
    stale: dict[int | None, list[Any]] = {}
    for key, row in changed.items():
        before, version = _version_before(affected, key, row), version_of(registration, row)
        if version <= before:
            # What a statement leaves as it is is raised by one more statement for all rows.
            stale.setdefault(before if version < before else None, []).append(key)
    for above, keys in stale.items():
        raise_versions(connection, registration, keys, above=above)
    return [key for keys in stale.values() for key in keys]


def loaded_in(session: Session, change: Change) -> Any | None:
    """Return the session's own object of a changed row; None if it has none, or one of the class that the row had before."""
    model = change.registration.model
    found = session.identity_map.get(
        identity_key(model, getattr(change.row, change.registration.key))
    )
    return found if isinstance(found, model) else None


def stale_attributes(row: Any) -> list[str]:
    """Return the column attributes of an object that a statement may have outdated: those without unflushed changes.

    Also those that are not loaded: an object that was added keeps None for a column that was not set.
    """
    state = inspect(row)
    mapper: Mapper[Any] = state.mapper
    names = mapper.column_attrs.keys()
    return [name for name in names if name not in state.committed_state]


def _is_changed(affected: Affected, key: Any, row: Any) -> bool:
    before = affected.before.get(key)
    if affected.written or before is None:
        return True
    after = content_of(affected.registration, row)
    return after.data is None or (after.version, after.data) != (before.version, before.data)


def _version_before(affected: Affected, key: Any, row: Any) -> int:
    before = affected.before.get(key)
    if before is not None:
        return max(0, before.version)
    return version_of(affected.registration, row) if affected.is_unsure else 0


def stand_in(registration: Registration, key: Any) -> Any:
    """Return an object that stands for a row that no longer exists."""
    mapper: Mapper[Any] = inspect(registration.model)
    row = mapper.class_manager.new_instance()
    set_committed_value(row, registration.key, key)
    return row
