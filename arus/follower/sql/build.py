"""The definitions of the follower's tables, from which its statements are built."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, MetaData, Table, TextClause

from arus.follower.tables import define
from arus.outbox.sql.build import names

TABLES = define(MetaData())

#: The ids of vessels; None for all.
Some = Collection[str] | None


def execute_for(
    connection: Connection, of_all: TextClause, of_some: TextClause, vessels: Some
) -> CursorResult[Any]:
    """Execute the statement for all vessels, or the one for those with the given ids: a partition has its own only."""
    if vessels is None:
        return connection.execute(of_all)
    return connection.execute(of_some, {"vessel_ids": list(vessels)})


def upsert_json(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Return the driver SQL of an upsert of many rows on PostgreSQL.

    Its one parameter is a JSON array of objects with a member for each column: binding each value of each row takes
    several times as long. No two rows may have the same key.

    :param columns: all names are quoted where necessary.
    """
    listed = ", ".join(columns)
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return (
        # For a key with GENERATED ALWAYS: a copy has the vessel's.
        f"INSERT INTO {table} ({listed}) OVERRIDING SYSTEM VALUE SELECT {listed}"
        f" FROM json_populate_recordset(CAST(NULL AS {table}), CAST(%s AS json))"
        f" ON CONFLICT ({', '.join(key)}) DO {f'UPDATE SET {changed}' if changed else 'NOTHING'}"
    )


def upsert_rows(table: Table, dialect: str) -> str:
    """Return the driver SQL of an upsert of whole rows of one of the follower's tables.

    On SQLite it is executed for each row, with the values in the order of the table; on PostgreSQL see `upsert_json`.
    """
    columns, key = names(table), [column.name for column in table.primary_key]
    if dialect != "sqlite":
        return upsert_json(table.name, columns, key)
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
    )
