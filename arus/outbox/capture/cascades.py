"""The registered rows that a database deletes or changes by itself when rows that they refer to are deleted or changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Select,
    Update,
    UpdateBase,
    select,
    tuple_,
)
from sqlalchemy.orm import Session

from arus.database import chunks
from arus.registry import Registry

from .affected import Affected, contents, lock
from .flush import changed_key
from .tables import Cascade, RegisteredTables, key_column, named_columns, table_of

#: Some columns of a row, by name.
_Row = Mapping[str, Any]


def cascades_of(
    tables: RegisteredTables, statement: UpdateBase, parameters: Iterable[Mapping[str, Any]]
) -> Sequence[Cascade]:
    """Return the foreign keys by which a statement reaches registered rows: by a deletion, or a new value of a column.

    :param parameters: of each execution of the statement.
    """
    if isinstance(statement, Delete):
        return tables.cascades(table_of(statement))
    if not isinstance(statement, Update):
        return []
    found = tables.updates(table_of(statement))
    names = named_columns(statement, parameters) if found else set()
    return [one for one in found if not names.isdisjoint(column.key for column in one.referred)]


def reached_rows(
    reader: Session,
    registry: Registry,
    tables: RegisteredTables,
    statement: Delete | Update,
    parameters: Iterable[Mapping[str, Any]],
) -> list[Affected]:
    """Return the rows that refer to those that a statement is about to delete or change, directly or by others.

    Whether the database changes them is seen afterwards: SQLite does so only where foreign keys are switched on.

    :param reader: a session that reads in the statement's transaction.
    :param parameters: of each execution of the statement.
    :raises CaptureError: the database would change the primary key of a registered row.
    """
    connection = reader.connection()
    of_table = tables.cascades if isinstance(statement, Delete) else tables.updates
    direct = cascades_of(tables, statement, parameters)
    if not direct:
        return []
    found: dict[str, Affected] = {}
    seen: set[tuple[Any, Any]] = set()
    # Nobody may add rows that refer to these, or to what is reached, between reading them and the statement.
    lock(connection)
    waiting = [(direct, _matching(connection, direct, statement, parameters))]
    while waiting:
        cascades, rows = waiting.pop()
        for cascade in cascades:
            names = [column.key for column in cascade.referred]
            values = {(cascade.columns, tuple(row[name] for name in names)) for row in rows} - seen
            seen |= values
            further = of_table(cascade.child)
            wanted = [value for _, value in values]
            children = _children(connection, tables, cascade, further, wanted)
            if children:
                if isinstance(statement, Update):
                    _refuse_key(tables, cascade)
                _note(reader, registry, tables, cascade, children, found)
                waiting.append((further, children))
    return list(found.values())


def _matching(
    connection: Connection,
    cascades: Sequence[Cascade],
    statement: Delete | Update,
    parameters: Iterable[Mapping[str, Any]],
) -> list[_Row]:
    """Return what the rows that a statement is about to delete or change are referred to by."""
    table = table_of(statement)
    names = dict.fromkeys(column.key for each in cascades for column in each.referred)
    query = _locking(connection, select(*(table.c[name] for name in names)), table)
    if statement.whereclause is not None:
        query = query.where(statement.whereclause)
    return [
        dict(zip(names, row, strict=True))
        for each in parameters
        for row in connection.execute(query, dict(each))
    ]


def _children(
    connection: Connection,
    tables: RegisteredTables,
    cascade: Cascade,
    further: Sequence[Cascade],
    values: Sequence[tuple[Any, ...]],
) -> list[_Row]:
    """Return the rows that refer to one of some values: their keys, and what they are referred to by.

    :param further: the foreign keys that refer to the child in turn.
    :param values: each with one value for each column of the foreign key.
    """
    child = cascade.child
    columns = {*cascade.columns}
    columns |= {column for each in further for column in each.referred}
    columns |= {key for one in tables.of(child) if (key := key_column(child, one)) is not None}
    named = {column.key: column for column in columns}
    query = _locking(connection, select(*named.values()), child)
    return [
        dict(zip(named, row, strict=True))
        for chunk in chunks(values)
        for row in connection.execute(query.where(_refers(cascade, chunk)))
    ]


def _locking(connection: Connection, query: Select[Any], table: Any) -> Select[Any]:
    return query if connection.dialect.name == "sqlite" else query.with_for_update(of=table)


def _refers(cascade: Cascade, values: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    """Return the condition that a row refers to one of some values."""
    if len(cascade.columns) > 1:
        return tuple_(*cascade.columns).in_(values)
    return cascade.columns[0].in_([value for (value,) in values])


def _refuse_key(tables: RegisteredTables, cascade: Cascade) -> None:
    """Raise if a foreign key is the primary key of a registered model."""
    for registration in tables.of(cascade.child):
        key = key_column(cascade.child, registration)
        if key is not None and key.key in {column.key for column in cascade.columns}:
            raise changed_key(registration)


def _note(
    reader: Session,
    registry: Registry,
    tables: RegisteredTables,
    cascade: Cascade,
    children: Sequence[_Row],
    found: dict[str, Affected],
) -> None:
    for registration in tables.of(cascade.child):
        key = key_column(cascade.child, registration)
        if key is None:
            continue
        affected = found.setdefault(registration.entity, Affected(registration, written=False))
        keys = [row[key.key] for row in children if row[key.key] not in affected.before]
        affected.before.update(contents(reader, registry, registration, keys, data=True))
