"""What a database error means: that the database is down, never accepts the row, or which other row is in the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    ForeignKeyConstraint,
    Table,
    and_,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError

from arus.errors import FIX, LogUnavailableError

from .held import row_name
from .rows import Copy

#: SQLSTATEs of PostgreSQL and error names of SQLite for constraints that no other row can change: NOT NULL, CHECK.
_NEVER = frozenset({
    "23502", "23514", "SQLITE_CONSTRAINT_NOTNULL", "SQLITE_CONSTRAINT_CHECK", "SQLITE_CONSTRAINT_DATATYPE",
})  # fmt: skip
#: Classes of SQLSTATE for which the database or the connection is the cause: no row can be written now.
_OUTAGE_CLASSES = frozenset({"08", "25", "26", "28", "40", "53", "55", "57", "58", "72", "F0", "HV", "XX"})  # fmt: skip
#: SQLSTATEs of tables that are not as the models say: once that is repaired, the rows are accepted.
_UNUSABLE = frozenset({"3D000", "3F000", "42703", "42P01", "42P10"})
#: SQLSTATE of a missing right: to the table, or to write a row that a policy or a trigger does not accept.
_NO_RIGHT = "42501"
#: The same, in SQLite's words: its code is that of other errors.
_UNUSABLE_TEXT = re.compile(r"no such table|no such column|has no column named|does not match any")
#: Errors of SQLite for which a row is the cause.
_OF_A_ROW = frozenset({"CONSTRAINT", "ERROR", "MISMATCH", "RANGE", "TOOBIG"})
#: SQLSTATE of a reference to a row that is not there, or from a row that still is.
_NO_PARENT = "23503"
#: The columns of a unique constraint in an error of SQLite, and of PostgreSQL.
_UNIQUE = re.compile(
    r"UNIQUE constraint failed: (.+)|^Key \(([^()]+)\)=\(.*\) already exists", re.S
)


def is_never_accepted(error: IntegrityError) -> bool:
    """Whether a row is refused for its own content."""
    cause = error.orig
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return code in _NEVER


def raise_if_outage(connection: Connection, copy: Copy, error: Exception) -> None:
    """Raise if the database or the table is the cause of an error, not the row: it is to be written later.

    :raises DBAPIError: the error itself.
    :raises LogUnavailableError: the role lacks a right to the table.
    """
    if is_outage(error):
        raise error
    if getattr(getattr(error, "orig", None), "sqlstate", None) != _NO_RIGHT:
        return
    if lacking := _lacking_rights(connection, copy):
        table, role = copy.table.fullname, connection.scalar(select(func.current_user()))
        raise LogUnavailableError(
            f"the role {role} lacks {', '.join(lacking)} on the table {table}: no row is applied{FIX}"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"
        ) from error


def _lacking_rights(connection: Connection, copy: Copy) -> list[str]:
    """Return the rights that the role lacks to write a table on PostgreSQL."""
    name = connection.dialect.identifier_preparer.format_table(copy.table)
    columns = [copy.table.c[key] for key in copy.columns]
    rights: dict[str, Any] = {
        right: and_(true(), *(func.has_column_privilege(name, one.name, right) for one in columns))
        for right in ("SELECT", "INSERT", "UPDATE")
    }
    rights["DELETE"] = func.has_table_privilege(name, "DELETE")
    found = connection.execute(select(*(has.label(right) for right, has in rights.items()))).one()
    return [right for right, has in found._mapping.items() if not has]


def is_outage(error: BaseException) -> bool:
    """Whether the database or a table that is not as its model says is the cause of an error, not the row."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state:
        return state[:2] in _OUTAGE_CLASSES or state in _UNUSABLE
    name = getattr(error.orig, "sqlite_errorname", None)
    if name:
        found = _UNUSABLE_TEXT.search(str(error.orig))
        return found is not None or name.split("_")[1] not in _OF_A_ROW
    # Without a code it was raised by the driver: for a value that it can't bind, or a connection that is gone.
    return isinstance(error, OperationalError | InternalError)


def blockers_of(
    connection: Connection, table: Table, key: Column[Any], values: Mapping[str, Any], error: IntegrityError
) -> list[str]:  # fmt: skip
    """Return the rows that are in the way of writing a row: who has its unique value, or all missing parents.

    :param values: of the row, by column.
    """
    names = _unique_columns(error)
    if names:  # the database may not check references
        return _holder(connection, table, key, values, names)
    return [
        row_name(parent.table.name, value)
        for parent, value in _parents(table, key, values)
        if _first(connection, parent, parent == value) is None
    ]


def parents_of(table: Table, key: Column[Any], values: Mapping[str, Any]) -> list[str]:
    """Return the names of the rows that a row refers to, whether they are there or not.

    :param values: of the row, by column.
    """
    return [row_name(parent.table.name, value) for parent, value in _parents(table, key, values)]


def is_parent_missing(error: IntegrityError) -> bool:
    """Whether a row is refused since one that it refers to is not there; on PostgreSQL: SQLite checks no references here."""
    return getattr(error.orig, "sqlstate", None) == _NO_PARENT


def referrers_of(connection: Connection, table: Table, key: Column[Any], value: Any) -> list[str]:
    """Return a row that still refers to a row; none if none can be found."""
    for child in table.metadata.tables.values():
        if len(child.primary_key) != 1:
            continue
        for constraint in child.foreign_key_constraints:
            if _parent(constraint) is not key:
                continue
            row = next(iter(child.primary_key))
            refers = [constraint.elements[0].parent == value]
            if child is table:
                refers.append(row != value)  # a row that refers to itself is not in its own way
            found = _first(connection, row, *refers)
            if found is not None:
                return [row_name(child.name, found)]
    return []


def _unique_columns(error: IntegrityError) -> list[str]:
    diagnosis = getattr(error.orig, "diag", None)
    told = getattr(diagnosis, "message_detail", None) or str(error.orig)
    found = _UNIQUE.search(told)
    if found is None:
        return []
    names = (found[1] or found[2]).split(",")
    return [name.strip().rpartition(".")[2].strip('"') for name in names]


def _holder(
    connection: Connection, table: Table, key: Column[Any], values: Mapping[str, Any], names: list[str]
) -> list[str]:  # fmt: skip
    """Return the row that has a row's unique value; none if it can't be found."""
    columns = {column.name: column for column in table.columns}
    if not all(name in columns and columns[name].key in values for name in names):
        return []  # an expression, or a column that is not copied
    same = [columns[name] == literal(values[columns[name].key], columns[name].type) for name in names]  # fmt: skip
    found = _first(connection, key, *same, key != values[key.key])
    return [] if found is None else [row_name(table.name, found)]


def _parents(
    table: Table, key: Column[Any], values: Mapping[str, Any]
) -> Iterator[tuple[Column[Any], Any]]:
    """Yield the keys of the rows that a row refers to, without itself."""
    for constraint in table.foreign_key_constraints:
        parent = _parent(constraint)
        if parent is None:
            continue
        value = values.get(constraint.elements[0].parent.key)
        if value is not None and not (parent is key and value == values[key.key]):
            yield parent, value


def _parent(constraint: ForeignKeyConstraint) -> Column[Any] | None:
    """Return the column that a foreign key refers to, if it is the whole primary key of its table."""
    if len(constraint.elements) != 1:
        return None
    column = constraint.elements[0].column
    return column if list(column.table.primary_key) == [column] else None


def _first(connection: Connection, column: Column[Any], *conditions: Any) -> Any:
    return connection.execute(select(column).where(*conditions).limit(1)).scalar()
