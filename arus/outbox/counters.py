"""The counters: kept in the database, so that every process reads the same values, even after one was killed."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from . import sql

#: Name, entity type, operation, QoS; if a counter has no labels, all but the name are empty.
CounterKey = tuple[str, str, str, str]

PUBLISHED = "messages_published"
QUEUED = "messages_queued"
DROPPED = "messages_dropped"
SUPERSEDED = "messages_superseded"
FAILURES = "publish_failures"
RECONNECTS = "reconnection_attempts"
#: By kind (`arus.mqtt.meter`), in place of the entity type.
BYTES_SENT = "bytes_sent"
FLUSHES = "queue_flushes"
CATCHUP_REFUSALS = "catchup_refusals"
PROPOSAL_REFUSALS = "proposal_refusals"
WATERMARK_REFUSALS = "watermark_refusals"
UNCAPTURED = "uncaptured_statements"


def add_to_counters(connection: Connection, amounts: Mapping[CounterKey, int]) -> None:
    """Add to counters, in the caller's transaction."""
    if amounts:
        connection.execute(sql.counters.ADD, counter_rows(amounts))


def counter_rows(amounts: Mapping[CounterKey, int]) -> list[dict[str, str | int]]:
    """Return the arguments of the statement that adds to counters."""
    return [
        {"name": n, "entity_type": e, "operation": o, "qos": q, "value": amount}
        # Sorted: two transactions that touch the same counters lock them in one order.
        for (n, e, o, q), amount in sorted(amounts.items())
    ]


def read_counters(connection: Connection) -> dict[CounterKey, int]:
    """Return all counters that were ever increased."""
    rows = connection.execute(sql.counters.ALL)
    return {(name, entity, operation, qos): value for name, entity, operation, qos, value in rows}
