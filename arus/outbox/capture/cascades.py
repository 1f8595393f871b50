"""The registered rows that a database deletes or changes by itself when rows that they refer to are deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Delete, select, tuple_
from sqlalchemy.orm import Session

from arus.registry import Registry

from .affected import Affected, chunks, contents
from .tables import Cascade, RegisteredTables, key_column

#: Some columns of a row, by name.
_Row = Mapping[str, Any]


def reached_rows(
    reader: Session,
    registry: Registry,
    tables: RegisteredTables,
    statement: Delete,
    parameters: Iterable[Mapping[str, Any]],
) -> list[Affected]:
    """Return the rows that refer to those that a statement is about to delete, directly or by others.

    Whether the database changes them is seen afterwards: SQLite does so only where foreign keys are switched on.

    :param reader: a session that reads in the statement's transaction.
    :param parameters: of each execution of the statement.
    """
    connection = reader.connection()
    found: dict[str, Affected] = {}
    seen: set[tuple[Any, Any]] = set()
    waiting = [(statement.table, _deleted(connection, tables, statement, parameters))]
    while waiting:
        table, rows = waiting.pop()
        for cascade in tables.cascades(table):
            names = [column.key for column in cascade.referred]
            values = {(cascade.columns, tuple(row[name] for name in names)) for row in rows} - seen
            seen |= values
            children = _children(connection, tables, cascade, [value for _, value in values])
            if children:
                _note(reader, registry, tables, cascade, children, found)
                waiting.append((cascade.child, children))
    return list(found.values())


def _deleted(
    connection: Connection,
    tables: RegisteredTables,
    statement: Delete,
    parameters: Iterable[Mapping[str, Any]],
) -> list[_Row]:
    """Return what the rows that are about to be deleted are referred to by."""
    cascades = tables.cascades(statement.table)
    names = dict.fromkeys(column.key for each in cascades for column in each.referred)
    query = select(*(statement.table.c[name] for name in names))
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
    values: Sequence[tuple[Any, ...]],
) -> list[_Row]:
    """Return the rows that refer to one of some values: their keys, and what they are referred to by.

    :param values: each with one value for each column of the foreign key.
    """
    child = cascade.child
    columns = {*cascade.columns}
    columns |= {column for further in tables.cascades(child) for column in further.referred}
    columns |= {key for one in tables.of(child) if (key := key_column(child, one)) is not None}
    named = {column.key: column for column in columns}
    return [
        dict(zip(named, row, strict=True))
        for chunk in chunks(values)
        for row in connection.execute(select(*named.values()).where(_refers(cascade, chunk)))
    ]


def _refers(cascade: Cascade, values: Sequence[tuple[Any, ...]]) -> ColumnElement[bool]:
    """Return the condition that a row refers to one of some values."""
    if len(cascade.columns) > 1:
        return tuple_(*cascade.columns).in_(values)
    return cascade.columns[0].in_([value for (value,) in values])


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
