"""Parts of statements that are generated from the definition of a table."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import MetaData, Table, TextClause, bindparam, text

from arus.outbox.tables import define

#: The type of a statement of these modules.
Statement = TextClause

#: The definitions that statements are built from. An application has the same ones in its own metadata.
TABLES = define(MetaData())


def names(table: Table, *, without: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names of a table's columns, in the order of its definition."""
    left_out = {table.c[name].name for name in without}
    return tuple(column.name for column in table.columns if column.name not in left_out)


def columns(table: Table, *wanted: str, without: Collection[str] = (), alias: str = "") -> str:
    """Return a list of columns for SELECT: those that are `wanted`, or all except those in `without`.

    :param alias: the table's alias in the statement.
    :raises KeyError: the table has no such column.
    """
    chosen = [table.c[name].name for name in wanted] or names(table, without=without)
    return ", ".join(f"{alias}.{name}" if alias else name for name in chosen)


def insert(table: Table, *wanted: str, **fixed: str) -> str:
    """Return an INSERT of one row, with a parameter for each column that is `wanted`.

    :param fixed: SQL in place of a parameter, by column.
    """
    values = {table.c[name].name: f":{name}" for name in wanted}
    values |= {table.c[name].name: sql for name, sql in fixed.items()}
    return f"INSERT INTO {table.name} ({', '.join(values)}) VALUES ({', '.join(values.values())})"


def upsert(table: Table, *, keep: Collection[str] = (), without: Collection[str] = ()) -> str:
    """Return an INSERT of a whole row that overwrites an existing row with the same key.

    :param keep: columns of an existing row that are not overwritten.
    :param without: columns that are not written at all.
    """
    key = [column.name for column in table.primary_key]
    overwritten = ", ".join(
        f"{name} = excluded.{name}" for name in names(table, without={*key, *keep, *without})
    )
    return f"{insert(table, *names(table, without=without))} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {overwritten}"


def statement(*parts: str, lists: Collection[str] = ()) -> TextClause:
    """Return the statement that consists of these parts.

    :param lists: parameters that are lists, for `IN`.
    """
    made = text(" ".join(parts))
    return made.bindparams(*(bindparam(name, expanding=True) for name in lists)) if lists else made
