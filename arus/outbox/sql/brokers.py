"""What was detected about each broker."""

from __future__ import annotations

from .build import TABLES, columns, statement, upsert

FIND = statement(f"SELECT {columns(TABLES.broker)} FROM arus_broker WHERE address = :address")
SAVE = statement(upsert(TABLES.broker))
