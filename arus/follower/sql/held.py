"""Held changes: those that the database does not accept yet."""

from __future__ import annotations

from arus.outbox.sql.build import columns, statement, upsert

from .build import TABLES

#: A change that is already held keeps its `held_at`.
HOLD = statement(upsert(TABLES.held, keep=("held_at",)))
INDEX = statement(
    "SELECT vessel_id, entity, row_id, version, waits_for, tries, next_at, length(data) AS size",
    "FROM arus_held",
)
INDEX_OF = statement(
    "SELECT vessel_id, entity, row_id, version, waits_for, tries, next_at, length(data) AS size",
    "FROM arus_held WHERE vessel_id IN :vessel_ids",
    lists=("vessel_ids",),
)
HELD = statement(
    f"SELECT {columns(TABLES.held, without=('reason', 'held_at', 'waits_for', 'tries', 'next_at'))}",
    "FROM arus_held WHERE vessel_id = :vessel_id AND entity = :entity AND row_id IN :row_ids",
    lists=("row_ids",),
)
RELEASE = statement(
    "DELETE FROM arus_held WHERE vessel_id = :vessel_id AND entity = :entity AND row_id = :row_id"
)
LET_GO = statement(
    "SELECT row_id FROM arus_held WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND seq <= :high_seq AND mark <> :mark",
)
FORGET_HELD = statement("DELETE FROM arus_held WHERE vessel_id = :vessel_id")
