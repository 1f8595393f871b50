"""Writes rows that wait for each other: in one savepoint, first without the values that are in the way.

Such rows refer to each other in a circle, or exchange a unique value. Their references are first left empty, and
their unique values are empty or placeholders, until all of the rows are there.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Enum, Index, Table, UniqueConstraint
from sqlalchemy.exc import DBAPIError, IntegrityError

from . import sql
from .blockers import blockers_of, raise_if_outage, referrers_of
from .messages import Change
from .rows import Copy
from .store import Store

#: Characters of a text's placeholder, and the fewest for which it is unique.
_LONGEST, _SHORTEST = 32, 12


class Step(NamedTuple):
    """One change that is to be written."""

    change: Change
    copy: Copy
    #: The row's values by column; None for a deletion.
    values: dict[str, Any] | None

    @property
    def key(self) -> Any:
        """The row's primary key."""
        return self.copy.key(self.change.data[self.copy.followed.id_key])


class Obstacle(NamedTuple):
    """What is in the way of a change."""

    change: Change
    #: `row_name` of each row in the way; none if they are not known.
    rows: list[str]
    reason: str


def write_together(store: Store, steps: Sequence[Step]) -> list[Obstacle]:
    """Write and delete rows, all or none; return what is in the way, nothing if all are written."""
    found: list[Obstacle] = []
    try:
        with store.savepoint():
            _defer(store.connection, sql.store.CHECKED_LATER)
            found = _each(store, steps, _loosen) or _each(store, steps, _finish)
            found = found or _check(store, steps)
            if found:
                raise _NotAllError
    except _NotAllError:
        return [obstacle for obstacle in found if obstacle.rows] or found[:1]
    return []


def in_the_way(connection: Connection, step: Step, error: IntegrityError) -> list[str]:
    """Return the names of the rows that are in the way of a change, as far as they can be found."""
    table, column = step.copy.table, step.copy.key_column
    if step.values is None:
        return referrers_of(connection, table, column, step.key)
    return blockers_of(connection, table, column, step.values, error)


def reason_of(error: BaseException) -> str:
    """Return a database's error in one line."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:500]


class _NotAllError(Exception):
    """Rolls the savepoint back."""


def _each(
    store: Store, steps: Iterable[Step], do: Callable[[Connection, Step], None]
) -> list[Obstacle]:
    """Do something with each change, in an order that the database accepts; return what can't be done."""
    left = list(steps)
    while left:
        failed: list[tuple[Step, DBAPIError]] = []
        for step in left:
            try:
                with store.savepoint():
                    do(store.connection, step)
            except DBAPIError as error:
                raise_if_outage(store.connection, step.copy, error)
                failed.append((step, error))
        if len(failed) == len(left):
            return [_obstacle(store.connection, step, error) for step, error in failed]
        left = [step for step, _ in failed]
    return []


def _loosen(connection: Connection, step: Step) -> None:
    """Write a row, or have the row that is to be deleted, without the values that may be in the way."""
    loose = _loose(step.copy.table, step.copy.columns)
    if step.values is None:
        step.copy.change(connection, step.key, loose)
    else:
        step.copy.upsert(connection, [step.values | loose])


def _finish(connection: Connection, step: Step) -> None:
    if step.values is None:
        step.copy.delete(connection, [step.key])
    else:
        step.copy.upsert(connection, [step.values])


def _check(store: Store, steps: Sequence[Step]) -> list[Obstacle]:
    """Have the constraints checked that were deferred."""
    try:
        with store.savepoint():
            _defer(store.connection, sql.store.CHECKED_AT_ONCE)
    except IntegrityError as error:
        return [_obstacle(store.connection, step, error) for step in steps]
    return []


def _defer(connection: Connection, statement: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(statement)


def _obstacle(connection: Connection, step: Step, error: DBAPIError) -> Obstacle:
    rows = in_the_way(connection, step, error) if isinstance(error, IntegrityError) else []
    return Obstacle(step.change, rows, reason_of(error))


def _loose(table: Table, written: Iterable[str]) -> dict[str, Any]:
    """Return values, by column, with which a row refers to no other, and shares no unique value with another."""
    columns = {table.c[name] for name in written if not table.c[name].primary_key}
    loose: dict[str, Any] = {}
    for constraint in table.foreign_key_constraints:
        loose |= {one.key: None for one in columns.intersection(constraint.columns) if one.nullable}
    unique: list[UniqueConstraint | Index] = [
        *(one for one in table.constraints if isinstance(one, UniqueConstraint)),
        *(one for one in table.indexes if one.unique),
    ]
    for one in unique:
        those = [column for column in one.columns if column in columns]
        if any(column.key in loose for column in those):
            continue
        empty = next((column for column in those if column.nullable), None)
        if empty is not None:
            loose[empty.key] = None
        else:
            loose |= next(filter(None, map(_placeholder, those)), {})
    return loose


def _placeholder(column: Column[Any]) -> dict[str, Any]:
    """Return a value that no other row has; none if the column can't have one."""
    if column.foreign_keys or isinstance(column.type, Enum):
        return {}
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return {}
    length = getattr(column.type, "length", None) or _LONGEST
    if kind is str and length >= _SHORTEST:
        return {column.key: uuid.uuid4().hex[:length]}
    if kind is int:
        return {column.key: -1 - secrets.randbits(31)}
    return {column.key: uuid.uuid4()} if kind is uuid.UUID else {}
