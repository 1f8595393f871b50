"""The versions of rows: raised where nothing else raises them, so that no two changes of a row carry the same."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, Connection, func, inspect, update
from sqlalchemy.orm import Mapper

from arus.database import chunks
from arus.registry import Registration, loaded_value

from .tables import key_column

#: Execution option of statements whose changes are captured otherwise.
CAPTURED = "arus_captured"


def version_of(registration: Registration, row: Any) -> int:
    """Return a row's version; 0 if it has none, or the log keeps it."""
    name = registration.version
    return int(loaded_value(row, name) or 0) if name is not None else 0


def version_column(registration: Registration) -> Column[Any]:
    """Return the column with a model's version, which must have one."""
    assert registration.version is not None, "the log keeps the versions of other models"
    mapper: Mapper[Any] = inspect(registration.model)
    column: Column[Any] = mapper.get_property(registration.version).columns[0]
    return column


def grows_by_itself(registration: Registration) -> bool:
    """Whether SQLAlchemy, the database or the log raises the version with each UPDATE."""
    if registration.version is None:
        return True
    mapper: Mapper[Any] = inspect(registration.model)
    column = version_column(registration)
    return (
        mapper.version_id_col is not None
        or column.onupdate is not None
        or column.server_onupdate is not None
    )


def is_counted_by_mapper(registration: Registration) -> bool:
    """Whether SQLAlchemy counts the version up from the one in the database, and refuses to write an older object."""
    mapper: Mapper[Any] = inspect(registration.model)
    column = mapper.version_id_col
    return (
        column is not None
        and _counts_up(mapper.version_id_generator)
        and mapper.get_property_by_column(column).key == registration.version
    )


@lru_cache(maxsize=1024)
def _counts_up(generator: Any) -> bool:
    """Whether a `version_id_generator` is SQLAlchemy's own, or one like it: the application's may be a time, which repeats."""
    try:
        return bool(generator(7) == 8)
    except Exception:  # noqa: BLE001  # it is the application's, or False
        return False


def may_repeat(registration: Registration) -> bool:
    """Whether a row's version may be one that the log has said before, because its transaction has read an older one."""
    return registration.version is not None and not is_counted_by_mapper(registration)


def raise_versions(
    connection: Connection,
    registration: Registration,
    keys: Iterable[Any],
    *,
    above: int | None = None,
) -> None:
    """Raise the versions of rows by 1, or to the one above a version; this is no change of its own."""
    column = version_column(registration)
    key = key_column(column.table, registration)
    assert key is not None, "a model has its key in each of its tables"
    version = func.coalesce(column, 0) + 1 if above is None else above + 1
    for chunk in chunks(keys):
        raised = update(column.table).where(key.in_(chunk))
        connection.execute(raised.values({column: version}), execution_options={CAPTURED: True})
