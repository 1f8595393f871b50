"""The comparison of all tables with the records, without any vessel: for a person (`flask sync audit` ashore)."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from sqlalchemy import URL

from arus.audit.contents import Context
from arus.database import open_engine, reading
from arus.follower import sql
from arus.follower.rows import Copy

from .fields import ComparedFields
from .orphans import find_orphans
from .verification import examine


def verify_all(
    url: str | URL, copies: Mapping[str, Copy], context: Context
) -> dict[str, dict[str, list[str]]]:
    """Return the ids of rows that are not as they were received, by vessel and entity.

    Rows that belong to no vessel are named for each vessel. Rows that show a pending proposal are left out.

    :raises LogUnavailableError: the database can't be used.
    """
    engine = open_engine(url)
    forever = threading.Event()
    try:
        with reading(engine) as connection:
            fields = ComparedFields(connection, copies)
            orphans = find_orphans(connection, copies, forever)
            found: dict[str, dict[str, list[str]]] = {}
            for vessel_id in connection.execute(sql.comparison.VESSELS).scalars().all():
                found[vessel_id] = {}
                for entity, copy in copies.items():
                    fields_of = fields.of(vessel_id, entity)
                    told = examine(connection, copy, vessel_id, fields_of, context, forever)
                    ids = [*told.held_by, *told.changed, *orphans[entity]]
                    found[vessel_id][entity] = list(dict.fromkeys(ids))
            return found
    finally:
        engine.dispose()
