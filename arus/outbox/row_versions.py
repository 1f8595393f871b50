"""Versions of rows: read from the version column, or kept by the log for models without one.

The log keeps a version for each row that it has logged. A row of which it keeps none is older than the log and has the
first version. The transaction that changes a row holds the row's lock, so no other one raises its version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from arus.database import chunks
from arus.protocol.entries import Operation
from arus.registry import Registration

from . import sql

#: The version of a row that was never changed.
FIRST = 1


def versions_of(
    connection: Connection, registration: Registration, rows: Mapping[str, Any]
) -> dict[str, int]:
    """Return the versions of rows.

    :param rows: as they are in the connection's transaction, by row id.
    """
    if registration.version is not None:
        name = registration.version
        return {row_id: whole_version(getattr(row, name)) for row_id, row in rows.items()}
    return dict.fromkeys(rows, FIRST) | _kept(connection, registration, rows)


def whole_version(value: Any) -> int:
    """Return the value of a version column; 0 if it has none, or one that no message may have (another program's)."""
    try:
        return max(0, int(value or 0))
    except (TypeError, ValueError):
        return 0


def version_in_log(connection: Connection, registration: Registration, row_id: str) -> int | None:
    """Return the version that the log keeps of a row, also of a deleted one; None if it keeps none."""
    return _kept(connection, registration, [row_id]).get(row_id)


def raise_kept(
    connection: Connection, registration: Registration, changes: Mapping[str, Operation]
) -> dict[str, int]:
    """Raise the versions of changed rows by one each, and return them.

    :param changes: what happened to each row, by row id.
    """
    raised: dict[str, int] = {}
    for chunk in chunks(sorted(changes)):
        wanted = {"entity": registration.entity, "row_ids": chunk}
        raised.update(
            (row.row_id, row.version) for row in connection.execute(sql.row_versions.RAISE, wanted)
        )
        unknown = [row_id for row_id in chunk if row_id not in raised]
        if not unknown:
            continue
        # The model had a version column before, or the row is older than the log: receivers may know its version.
        old = [row_id for row_id in unknown if changes[row_id] is not Operation.CREATE]
        said = dict.fromkeys(old, FIRST) | _logged(connection, registration, old)
        added = {row_id: said.get(row_id, FIRST - 1) + 1 for row_id in unknown}
        connection.execute(sql.row_versions.ADD, _values(registration, added))
        raised.update(added)
    return raised


def keep(connection: Connection, registration: Registration, versions: Mapping[str, int]) -> None:
    """Set the versions that the log keeps of rows."""
    if versions:
        connection.execute(sql.row_versions.SET, _values(registration, versions))


def keep_first(connection: Connection, registration: Registration, row_ids: Iterable[str]) -> None:
    """Note that receivers may know rows in the first version, unless the log keeps a version of them."""
    values = _values(registration, dict.fromkeys(row_ids, FIRST))
    if values:
        connection.execute(sql.row_versions.ADD_UNKNOWN, values)


def _kept(
    connection: Connection, registration: Registration, row_ids: Iterable[str]
) -> dict[str, int]:
    found: dict[str, int] = {}
    for chunk in chunks(row_ids):
        wanted = {"entity": registration.entity, "row_ids": chunk}
        for row in connection.execute(sql.row_versions.OF_ROWS, wanted):
            found[row.row_id] = row.version
    return found


def _logged(
    connection: Connection, registration: Registration, row_ids: Sequence[str]
) -> dict[str, int]:
    if not row_ids:
        return {}
    wanted = {"entity": registration.entity, "row_ids": row_ids}
    rows = connection.execute(sql.entries.LAST_OF_ROWS, wanted)
    return {row.row_id: row.version for row in rows}


def _values(registration: Registration, versions: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"entity": registration.entity, "row_id": row_id, "version": version}
        for row_id, version in versions.items()
    ]
