"""The results of statements, read before the application reads them, and the keys of rows in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, Connection, CursorResult, Delete, Row, Update, UpdateBase


def kept_rows(result: CursorResult[Any]) -> Sequence[Row[Any]]:
    """Fetch all rows of a new result, and return them; whoever has executed the statement reads them as ever."""
    rows = result.all()
    # As SQLAlchemy itself does for a RETURNING that it needs as well.
    result._rewind(rows)
    return rows


def without_rows(result: CursorResult[Any], count: int) -> None:
    """Close a result whose rows were read, and for which the application has not asked; it tells their number."""
    context: Any = result.context
    # SQLite's driver knows it only now, and SQLAlchemy has asked it before.
    context._rowcount = count
    result.close()


def with_returned_key(
    connection: Connection, statement: Update | Delete, key: Column[Any]
) -> Update | Delete:
    """Return an UPDATE or DELETE of a table, made to return the keys of its rows where that is possible.

    That of a model is left as it is: the ORM would make something else of its result.
    """
    dialect = connection.dialect
    can = dialect.update_returning if isinstance(statement, Update) else dialect.delete_returning
    if statement._returning or statement._return_defaults or statement._propagate_attrs or not can:
        return statement
    return statement.returning(key)


def returns_key(statement: UpdateBase, key: Column[Any]) -> bool:
    """Whether a statement has a RETURNING of its own with the keys of its rows."""
    return bool(statement._returning) and statement.exported_columns.contains_column(key)


def returned_keys(result: CursorResult[Any], statement: UpdateBase, key: Column[Any]) -> list[Any]:
    """Return the keys that an executed statement has returned: one of `with_keys`, or with `returns_key`."""
    if statement._returning:
        return [row._mapping[key] for row in kept_rows(result)]
    rows: Sequence[Any] = result.inserted_primary_key_rows
    return [row[0] for row in rows]
