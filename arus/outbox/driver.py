"""Runs the statements of `arus.outbox.sql` on the driver's own connection.

SQLAlchemy's execution costs several times what SQLite needs for a small statement, and the owner runs the same few
statements for each change. Here a statement is compiled once, by SQLAlchemy for the connection's dialect, and then
passed to the driver, which prepares it once: sqlite3 and psycopg both keep prepared statements by their text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect

from arus.database import driver_connection, raised_by_sqlalchemy

from .sql.build import Statement

Arguments = Mapping[str, Any]


class _Compiled(NamedTuple):
    """A statement as the driver takes it."""

    text: str
    #: The parameters in the driver's order; None if it takes them by name.
    order: tuple[str, ...] | None

    def values(self, arguments: Arguments) -> Any:
        """Return arguments as the driver takes them."""
        if self.order is None:
            return arguments
        return [arguments[name] for name in self.order]


class DriverStatements:
    """Runs statements on one connection, in the transaction that is open on it, if any.

    Errors are the driver's; `arus.database.translated` knows them.

    :param connection: from `arus.database.open_engine`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._compiled: dict[Statement, _Compiled] = {}

    def rows(self, statement: Statement, arguments: Arguments) -> Sequence[tuple[Any, ...]]:
        """Run a statement, and return its rows."""
        compiled = self._compile(statement)
        found: Sequence[tuple[Any, ...]] = self._run(
            compiled.text, compiled.values(arguments)
        ).fetchall()
        return found

    def run(self, statement: Statement, arguments: Arguments) -> None:
        """Run a statement that returns no rows."""
        compiled = self._compile(statement)
        self._run(compiled.text, compiled.values(arguments))

    def run_each(self, statement: Statement, rows: Sequence[Arguments]) -> None:
        """Run a statement that returns no rows, once for each of some arguments."""
        compiled = self._compile(statement)
        if len(rows) == 1:
            self._run(compiled.text, compiled.values(rows[0]))
        elif rows:
            driver_connection(self._connection).cursor().executemany(
                compiled.text, [compiled.values(row) for row in rows]
            )

    def scalar(self, text: str) -> Any:
        """Run driver SQL without parameters, and return the first value of its first row; None if there is none."""
        row = self._run(text, ()).fetchone()
        return None if row is None else row[0]

    def _run(self, text: str, values: Any) -> Any:
        return driver_connection(self._connection).execute(text, values)

    def _compile(self, statement: Statement) -> _Compiled:
        found = self._compiled.get(statement)
        if found is None:
            found = self._compiled[statement] = _compiled(statement, self._connection.dialect)
        return found


def read_rows(
    connection: Connection, statement: Statement, arguments: Arguments
) -> Sequence[tuple[Any, ...]]:
    """Run a statement that reads, on a connection of any engine, and return its rows.

    :raises sqlalchemy.exc.DBAPIError: what SQLAlchemy's own execution would raise.
    """
    compiled = _compiled(statement, connection.dialect)
    with raised_by_sqlalchemy(connection, compiled.text):
        found: Sequence[tuple[Any, ...]] = (
            driver_connection(connection)
            .execute(compiled.text, compiled.values(arguments))
            .fetchall()
        )
    return found


@lru_cache(maxsize=512)
def _compiled(statement: Statement, dialect: Dialect) -> _Compiled:
    made = statement.compile(dialect=dialect)
    assert not made.post_compile_params, "the driver takes no lists"
    order = getattr(made, "positiontup", None)
    return _Compiled(str(made), None if order is None else tuple(order))
