"""The status of a follower."""

from __future__ import annotations

from arus.outbox.sql.build import columns, statement

from .build import TABLES

VESSELS = statement(
    f"SELECT {columns(TABLES.vessel, without=('past_epochs', 'above', 'pending', 'proven'))} FROM arus_vessel",
    "ORDER BY vessel_id",
)
POSITIONS = statement(
    f"SELECT {columns(TABLES.position, without=('proven_seq', 'buckets', 'mark'))}",
    "FROM arus_position ORDER BY vessel_id, topic",
)
ROWS = statement(
    "SELECT vessel_id, entity, owner <> '' AS claimed, count(*) AS rows FROM arus_row",
    "WHERE NOT deleted GROUP BY vessel_id, entity, owner <> '' ORDER BY vessel_id, entity",
)
#: Rows that vessels send but that belong to other vessels.
CLAIMS = statement(
    "SELECT vessel_id, owner, entity, count(*) AS rows FROM arus_row",
    # The first condition is that of the index, the second is looked up in it.
    "WHERE owner <> '' AND owner > '' AND NOT deleted GROUP BY vessel_id, owner, entity",
    "ORDER BY vessel_id, owner, entity",
)
EPOCHS = statement("SELECT vessel_id, epoch, past_epochs, online FROM arus_vessel")
DIFFERENCES = statement(
    "SELECT vessel_id, entity, difference FROM arus_compared",
    "WHERE difference IS NOT NULL ORDER BY vessel_id, entity",
)
HELD = statement("SELECT vessel_id, count(*) AS held FROM arus_held GROUP BY vessel_id")
LINKS = statement(f"SELECT {columns(TABLES.follow_link)} FROM arus_follow_link ORDER BY name")
