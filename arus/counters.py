"""The counters: kept in the database, so that they are right whichever process is asked or was killed."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text

#: Name, entity type, operation, QoS; all but the name empty where a counter has no labels.
CounterKey = tuple[str, str, str, str]

PUBLISHED = "messages_published"
QUEUED = "messages_queued"
DROPPED = "messages_dropped"
FAILURES = "publish_failures"
RECONNECTS = "reconnection_attempts"
FLUSHES = "queue_flushes"
CATCHUP_REFUSALS = "catchup_refusals"
PROPOSAL_REFUSALS = "proposal_refusals"

_ADD = text(
    "INSERT INTO arus_counter (name, entity_type, operation, qos, value)"
    " VALUES (:name, :entity_type, :operation, :qos, :value)"
    " ON CONFLICT (name, entity_type, operation, qos)"
    " DO UPDATE SET value = arus_counter.value + excluded.value"
)


def add_to_counters(connection: Connection, amounts: Mapping[CounterKey, int]) -> None:
    """Add to counters, in the caller's transaction."""
    if amounts:
        connection.execute(
            _ADD,
            [
                {"name": n, "entity_type": e, "operation": o, "qos": q, "value": amount}
                # Sorted: two transactions that touch the same counters lock them in one order.
                for (n, e, o, q), amount in sorted(amounts.items())
            ],
        )


def read_counters(connection: Connection) -> dict[CounterKey, int]:
    """Return all counters that ever counted."""
    rows = connection.execute(
        text("SELECT name, entity_type, operation, qos, value FROM arus_counter")
    )
    return {(name, entity, operation, qos): value for name, entity, operation, qos, value in rows}
