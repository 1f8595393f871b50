"""All that the status of the sync consists of: health and each page read it, so it is two statements.

They are not one: to fetch a column takes SQLite's driver as long as to find a row, and there are thirty counters.
"""

from __future__ import annotations

from .build import statement

_SESSION = (
    "epoch", "vessel_id", "head_seq", "generation", "owner_pid", "owner_host", "owner_since", "connected",
    "connected_changed_at", "protocol", "reconnect_attempts", "reason", "stalled_since", "obstacle",
    "neighbour", "neighbour_at", "epoch_note", "epoch_noted_at", "held_until", "catchups_until",
)  # fmt: skip
_ONCE = {name: f"s.{name}" for name in _SESSION} | {
    # In the same statement: a change that is numbered between two would be in neither.
    "depth": "(SELECT CAST(COALESCE(SUM(depth), 0) AS BIGINT) FROM arus_lane)"
    " + (SELECT COUNT(*) FROM arus_change WHERE seq IS NULL AND outcome IS NULL)",
    "quarantined": "(SELECT COUNT(*) FROM arus_change WHERE outcome = 'quarantined')",
    "oldest_unnumbered": "(SELECT committed_at FROM arus_change WHERE seq IS NULL AND outcome IS NULL"
    " ORDER BY id LIMIT 1)",
    # One look-up in an index for each topic queue.
    "oldest_numbered": "(SELECT MIN((SELECT c.committed_at FROM arus_change c WHERE c.topic = l.topic"
    " AND c.seq > l.acked_seq AND c.outcome IS NULL ORDER BY c.seq LIMIT 1)) FROM arus_lane l WHERE l.depth > 0)",
    "acked_at": "(SELECT MAX(acked_at) FROM arus_lane)",
    "subscriptions": "(SELECT COUNT(*) FROM arus_subscription)",
}
#: What there is once: always one row, with NULL for a session that is not there yet.
ONCE = statement(
    f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in _ONCE.items())}",
    "FROM (SELECT 1 AS one) a LEFT JOIN arus_session s ON s.id = 1",
)
once_names = tuple(_ONCE)
#: The counters, what was sent on a day, and the topic queues with undelivered changes: what a row is, its texts and its
#: numbers.
AMOUNTS = statement(
    "SELECT 'counter' AS kind, name, entity_type, operation, qos, value FROM arus_counter",
    "UNION ALL SELECT 'sent', kind, NULL, NULL, NULL, sent FROM arus_usage WHERE day = :day",
    "UNION ALL SELECT CASE WHEN acked_seq < sent_seq THEN 'sending' ELSE 'waiting' END, topic, NULL, NULL, NULL, depth",
    "FROM arus_lane WHERE depth > 0",
)
