"""All that the status of the sync consists of, in one statement: health and each page read it.

Its rows have several parts: one row of what there is once, and one for each topic queue with undelivered changes, each
counter, and each kind of what was sent on a day. Each has NULL in the columns of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .build import statement

_SESSION = (
    "epoch", "vessel_id", "head_seq", "generation", "owner_pid", "owner_host", "owner_since", "connected",
    "connected_changed_at", "protocol", "reconnect_attempts", "reason", "stalled_since", "obstacle",
    "neighbour", "neighbour_at", "epoch_note", "epoch_noted_at", "held_until", "catchups_until",
)  # fmt: skip
_ONCE = {name: f"s.{name}" for name in _SESSION} | {
    "unnumbered": "(SELECT COUNT(*) FROM arus_change WHERE seq IS NULL AND outcome IS NULL)",
    "quarantined": "(SELECT COUNT(*) FROM arus_change WHERE outcome = 'quarantined')",
    "oldest_unnumbered": "(SELECT committed_at FROM arus_change WHERE seq IS NULL AND outcome IS NULL"
    " ORDER BY id LIMIT 1)",
    # One look-up in an index for each topic queue.
    "oldest_numbered": "(SELECT MIN((SELECT c.committed_at FROM arus_change c WHERE c.topic = l.topic"
    " AND c.seq > l.acked_seq AND c.outcome IS NULL ORDER BY c.seq LIMIT 1)) FROM arus_lane l WHERE l.depth > 0)",
    "acked_at": "(SELECT MAX(acked_at) FROM arus_lane)",
    "subscriptions": "(SELECT COUNT(*) FROM arus_subscription)",
}
#: The columns of the other parts.
_EACH = ("name", "entity_type", "operation", "qos", "amount", "sent_seq", "acked_seq")


def _part(part: str, source: str, columns: dict[str, str]) -> str:
    values = (f"{columns.get(name, 'NULL')} AS {name}" for name in (*_ONCE, *_EACH))
    return f"SELECT '{part}' AS part, {', '.join(values)} FROM {source}"


#: PostgreSQL takes the types of the columns from the first rows that have them: the queues have all but three, which are
#: texts.
ALL = statement(
    " UNION ALL ".join(
        (
            _part("once", "(SELECT 1 AS one) a LEFT JOIN arus_session s ON s.id = 1", _ONCE),
            _part(
                "queue",
                "arus_lane WHERE depth > 0",
                {
                    "name": "topic",
                    "amount": "depth",
                    "sent_seq": "sent_seq",
                    "acked_seq": "acked_seq",
                },
            ),
            _part(
                "counter",
                "arus_counter",
                {name: name for name in ("name", "entity_type", "operation", "qos")}
                | {"amount": "value"},
            ),
            _part("usage", "arus_usage WHERE day = :day", {"name": "kind", "amount": "sent"}),
        )
    )
)


def once_of(row: Sequence[Any]) -> dict[str, Any]:
    """Return the values of a row of the part 'once' (its first column is the part), by name."""
    return dict(zip(_ONCE, row[1:], strict=False))


def each_of(row: Sequence[Any]) -> Sequence[Any]:
    """Return name, entity type, operation, QoS, amount, sent and acknowledged number of a row of another part."""
    return row[-len(_EACH) :]
