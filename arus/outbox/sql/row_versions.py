"""The versions of rows whose models have no version column."""

from __future__ import annotations

from .build import TABLES, insert, names, statement, upsert

_ADD = insert(TABLES.row_version, *names(TABLES.row_version))

OF_ROWS = statement(
    "SELECT row_id, version FROM arus_row_version",
    "WHERE entity = :entity AND row_id IN :row_ids",
    lists=("row_ids",),
)
RAISE = statement(
    "UPDATE arus_row_version SET version = version + 1",
    "WHERE entity = :entity AND row_id IN :row_ids RETURNING row_id, version",
    lists=("row_ids",),
)
ADD = statement(_ADD)
ADD_UNKNOWN = statement(_ADD, "ON CONFLICT (entity, row_id) DO NOTHING")
SET = statement(upsert(TABLES.row_version))
