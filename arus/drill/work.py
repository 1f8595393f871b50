"""A ship's own work, repeated: the changes of its log, in their order and mix, with their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from arus.errors import DrillError
from arus.outbox import sql
from arus.protocol.entries import new_message_id

#: The newest changes of the log that are repeated.
SAMPLE = 20_000
#: Fewer are no sample of anything.
FEWEST = 20
#: Milliseconds below which the rate of a log says nothing of an hour.
SHORTEST = 3_600_000


class Work(Struct, frozen=True):
    """Changes to repeat, oldest first, and how many a ship makes."""

    changes: Sequence[Any]
    #: In an hour; None if the log is too short to tell.
    rate: float | None


def read_work(connection: Connection) -> Work:
    """Return the newest changes of the log.

    :raises DrillError: there are too few.
    """
    rows = connection.execute(sql.changes.SAMPLE, {"limit": SAMPLE}).all()[::-1]
    if len(rows) < FEWEST:
        raise DrillError(
            f"the log has {len(rows)} changes, and a drill repeats at least {FEWEST}: work with the application for a while,"
            " or load its demo data"
        )
    span = rows[-1].committed_at - rows[0].committed_at
    rate = len(rows) / span * 3_600_000 if span >= SHORTEST else None
    return Work(rows, rate)


def repeat(work: Work, begin: int, step: float) -> Iterator[dict[str, Any]]:
    """Yield entries without end, for the log: the same work again and again, on new rows where it creates some.

    :param begin: when the first one is committed, in milliseconds since the epoch.
    :param step: milliseconds between two.
    """
    created = {(row.entity, row.row_id) for row in work.changes if row.operation == "create"}
    versions: dict[tuple[str, str], int] = {}
    numbers = count()
    for round_ in count():
        for row in work.changes:
            at = begin + round(next(numbers) * step)
            row_id = row.row_id
            if round_ and (row.entity, row.row_id) in created:
                row_id = f"{row.row_id[:50]}-{round_}"
            key = (row.entity, row_id)
            versions[key] = versions.get(key, row.version - 1) + 1
            yield {
                "message_id": new_message_id(at),
                "entity": row.entity,
                "topic": row.topic,
                "qos": row.qos,
                "operation": row.operation,
                "row_id": row_id,
                "version": versions[key],
                "committed_at": at,
                "data": row.data,
                "outcome": None,
                "reason": None,
                "actor": row.actor,
            }
