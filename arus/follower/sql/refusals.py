"""Refused rows."""

from __future__ import annotations

from arus.outbox.sql.build import columns, statement, upsert

from .build import TABLES

ALL = statement(
    f"SELECT {columns(TABLES.refused)} FROM arus_refused ORDER BY vessel_id, entity, row_id"
)
ALL_OF = statement(
    f"SELECT {columns(TABLES.refused)} FROM arus_refused WHERE vessel_id IN :vessel_ids",
    lists=("vessel_ids",),
)
COUNTS = statement("SELECT vessel_id, count(*) AS refused FROM arus_refused GROUP BY vessel_id")
SAVE = statement(upsert(TABLES.refused))
REMOVE = statement(
    "DELETE FROM arus_refused",
    "WHERE vessel_id = :vessel_id AND entity = :entity AND row_key = :row_key",
)
FORGET_VESSEL = statement("DELETE FROM arus_refused WHERE vessel_id = :vessel_id")
