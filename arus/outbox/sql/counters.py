"""The counters."""

from __future__ import annotations

from .build import TABLES, columns, insert, names, statement

ADD = statement(
    insert(TABLES.counter, *names(TABLES.counter)),
    "ON CONFLICT (name, entity_type, operation, qos)",
    "DO UPDATE SET value = arus_counter.value + excluded.value",
)
ALL = statement(f"SELECT {columns(TABLES.counter)} FROM arus_counter")
