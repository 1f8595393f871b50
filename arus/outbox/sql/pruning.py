"""Evicting changes from a full queue, and deleting expired entries from the log."""

from __future__ import annotations

from .build import TABLES, columns, statement

# -- eviction -------------------------------------------------------------------------------------

_EVICTED = columns(
    TABLES.change,
    *("id", "topic", "seq", "previous_seq", "message_id", "entity", "operation"),
    alias="c",
)

REPLACED = statement(
    f"SELECT {_EVICTED}",
    # CROSS JOIN keeps SQLite from scanning all delivered changes to satisfy ORDER BY.
    "FROM arus_lane l CROSS JOIN arus_change c",
    "WHERE c.topic = l.topic AND c.seq > l.sent_seq AND c.outcome IS NULL",
    "AND EXISTS (SELECT 1 FROM arus_change n WHERE n.entity = c.entity AND n.row_id = c.row_id",
    "AND n.id > c.id AND n.seq IS NOT NULL AND n.outcome IS NULL)",
    "ORDER BY c.id LIMIT :limit",
)
REPLACED_BY = statement(
    f"SELECT {_EVICTED}",
    "FROM arus_change c JOIN arus_lane l ON l.topic = c.topic AND c.seq > l.sent_seq",
    "WHERE c.outcome IS NULL AND c.entity = :entity AND c.row_id = :row_id AND c.id < :id",
    "ORDER BY c.id DESC LIMIT 1",
)
#: What each of the oldest entries without a number replaces: the change before it of the same row, unless that was
#: sent. The inner query reads one entry of the row, since those with an outcome are few or already superseded.
REPLACED_BY_UNNUMBERED = statement(
    "SELECT found.new_id, p.id, p.topic, p.seq, p.previous_seq, p.message_id, p.entity, p.operation,",
    "(SELECT x.id FROM arus_change x WHERE x.topic = p.topic AND x.seq > p.seq",
    " AND (x.outcome IS NULL OR x.outcome <> 'superseded') ORDER BY x.seq LIMIT 1) AS next_id",
    "FROM (SELECT u.id AS new_id, u.topic, (SELECT c.id FROM arus_change c WHERE c.entity = u.entity",
    " AND c.row_id = u.row_id AND c.id < u.id AND c.outcome IS NULL ORDER BY c.id DESC LIMIT 1) AS old_id",
    " FROM arus_change u WHERE u.seq IS NULL AND u.outcome IS NULL ORDER BY u.id LIMIT :limit) found",
    "CROSS JOIN arus_change p LEFT JOIN arus_lane l ON l.topic = p.topic",
    "WHERE p.id = found.old_id AND p.topic = found.topic AND (p.seq IS NULL OR p.seq > l.sent_seq)",
)
_OLDEST = (
    f"SELECT {_EVICTED} FROM arus_change c"
    " WHERE c.topic = :topic AND c.seq > :after AND c.outcome IS NULL"
)
OLDEST_ORDINARY = statement(_OLDEST, "AND c.operation <> 'delete'", "ORDER BY c.seq LIMIT :limit")
OLDEST = statement(_OLDEST, "ORDER BY c.seq LIMIT :limit")
#: The next change of a topic that receivers get, or notice as missing.
NEXT = statement(
    "SELECT id FROM arus_change WHERE topic = :topic AND seq > :seq",
    "AND (outcome IS NULL OR outcome <> 'superseded') ORDER BY seq LIMIT 1",
)
PREVIOUS_SEQ = statement("SELECT previous_seq FROM arus_change WHERE id = :id")
CLOSE_UP = statement("UPDATE arus_change SET previous_seq = :previous_seq WHERE id = :id")

# -- retention ------------------------------------------------------------------------------------

#: Selects the oldest entries, then checks their age: checking the age first would read the whole log each time,
#: even if nothing has expired.
EXPIRED = statement(
    "SELECT id FROM (SELECT id, seq, committed_at FROM arus_change WHERE topic = :topic",
    "AND seq <= :acked_seq AND outcome IS NULL ORDER BY seq LIMIT :limit) AS oldest",
    "WHERE committed_at < :before ORDER BY seq",
)
EVICTED = statement(
    "SELECT c.id, c.committed_at, c.outcome, c.reason,",
    "EXISTS (SELECT 1 FROM arus_change n WHERE n.entity = c.entity AND n.row_id = c.row_id",
    "AND n.id > c.id AND (n.outcome IS NULL OR n.outcome = 'dropped')) AS covered",
    "FROM arus_change c WHERE c.outcome = :outcome AND c.id > :after ORDER BY c.id LIMIT :limit",
)
QUARANTINED_BEYOND = statement(
    "SELECT id FROM arus_change WHERE outcome = 'quarantined' ORDER BY id DESC",
    "LIMIT :limit OFFSET :bound",
)
HIGHEST_SEQ = statement("SELECT MAX(seq) FROM arus_change WHERE id IN :ids", lists=("ids",))
DELETE = statement("DELETE FROM arus_change WHERE id = :id")
