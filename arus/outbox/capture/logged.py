"""What the log last said of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from arus.database import chunks
from arus.outbox import sql
from arus.protocol.entries import Operation
from arus.registry import Registration

from .pending import Content


def logged_contents(
    connection: Connection, registration: Registration, keys: Iterable[Any]
) -> dict[Any, Content]:
    """Return the contents of rows by key, as the log last said; without rows that it does not know or says deleted."""
    by_id = {str(key): key for key in keys}
    found: dict[Any, Content] = {}
    for ids in chunks(by_id):
        wanted = {"entity": registration.entity, "row_ids": ids}
        for row in connection.execute(sql.entries.LAST_CONTENTS, wanted):
            if row.operation != Operation.DELETE:
                data = None if row.outcome == "quarantined" else bytes(row.data)
                found[by_id[row.row_id]] = Content(row.version, data, row.reason)
    return found
