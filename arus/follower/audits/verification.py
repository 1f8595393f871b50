"""The comparison of a vessel's rows in the tables with their records: reads the rows of this vessel alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection

from arus.audit.contents import Context, Fields, TableRow, some_rows
from arus.follower import sql
from arus.follower.rows import Copy

#: Rows per query.
CHUNK = 500
#: The reason for which a row does not show the vessel's state while a proposal waits for its answer.
PROPOSED = "a proposal waits for the vessel's answer"


class Found(Struct):
    """What was found in one table."""

    #: Rows that are not as they were received: changed, or missing.
    changed: list[str] = field(default_factory=list)
    #: Rows that the vessel has sent but that belong to another vessel here: that vessel by row id.
    held_by: dict[str, str] = field(default_factory=dict)
    #: Rows that belong to this vessel but that another one has sent too: that vessel by row id.
    claimed_by: dict[str, str] = field(default_factory=dict)
    #: Rows that do not show the vessel's state for a known reason: the reason by row id.
    unapplied: dict[str, str] = field(default_factory=dict)


def examine(
    connection: Connection,
    copy: Copy,
    vessel_id: str,
    fields: Fields,
    context: Context,
    stopping: threading.Event,
) -> Found:
    """Compare a vessel's rows in one table with their records.

    :param connection: reads in one snapshot of the database.
    :param fields: over which the records' hashes are made.
    """
    found = Found()
    wanted = {"vessel_id": vessel_id, "entity": copy.registration.entity}
    for row_id in connection.execute(sql.comparison.PROPOSALS, wanted).scalars():
        found.unapplied[row_id] = PROPOSED
    proposed = set(found.unapplied)
    for held in connection.execute(sql.comparison.HELD, wanted):
        found.unapplied.setdefault(held.row_id, f"held: {held.reason}")
    for page in _pages(connection, sql.comparison.OWN, wanted):
        if stopping.is_set():
            break
        rows = _rows(connection, copy, context, [known.row_id for known in page])
        for known in page:
            if known.row_id not in proposed and not _is_as_noted(copy, rows, known, fields):
                found.changed.append(known.row_id)
        _examine_others(connection, found, wanted, [known.row_id for known in page])
    for page in _pages(connection, sql.comparison.CLAIMS, wanted):
        found.held_by |= {claim.row_id: claim.owner for claim in page}
    return found


def _rows(
    connection: Connection, copy: Copy, context: Context, row_ids: list[str]
) -> dict[str, TableRow]:
    keys = [copy.key_of(row_id) for row_id in row_ids]
    # By the ids that the rows have: a database may find a row by another id that it takes for the same.
    return {row.row_id: row for row in some_rows(connection, copy.registration, context, keys)}


def _is_as_noted(copy: Copy, rows: Mapping[str, TableRow], known: Any, fields: Fields) -> bool:
    row = rows.get(known.row_id)
    if row is None or row.hash(fields) != known.hash:
        return False
    return copy.registration.version is None or row.version == known.version


def _examine_others(
    connection: Connection, found: Found, wanted: Mapping[str, str], row_ids: list[str]
) -> None:
    """Note what other vessels have sent of rows that belong to this one."""
    for other in connection.execute(sql.comparison.OTHERS, {**wanted, "row_ids": row_ids}):
        if other.owner == wanted["vessel_id"]:
            found.claimed_by[other.row_id] = other.vessel_id
        elif not other.owner and other.version >= 0:
            found.changed.append(other.row_id)  # with two owners it can't be as both have sent it


def _pages(
    connection: Connection, statement: Any, wanted: Mapping[str, str]
) -> Iterator[list[Any]]:
    after = ""
    while True:
        bounds = {"after": after, "limit": CHUNK}
        page = list(connection.execute(statement, {**wanted, **bounds}))
        if page:
            yield page
        if len(page) < CHUNK:
            return
        after = page[-1].row_id
