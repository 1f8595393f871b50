"""How many items a catch-up finds in each block of the log."""

from __future__ import annotations

from .build import statement
from .entries import sent_by_catchups

ACKED = statement("SELECT topic, acked_seq FROM arus_lane ORDER BY topic")
#: The next number of a topic.
NEXT = statement("SELECT MIN(seq) FROM arus_change WHERE topic = :topic AND seq > :after")
#: Those blocks of so many numbers that have items, in their order.
BLOCKS = statement(
    "SELECT entity, (seq - 1) / CAST(:numbers AS BIGINT) AS block, COUNT(*) AS items,",
    "SUM(CASE WHEN operation = 'delete' THEN 1 ELSE 0 END) AS deletes",
    "FROM arus_change WHERE topic = :topic AND seq > :after AND seq <= :upto",
    f"AND {sent_by_catchups} GROUP BY entity, block ORDER BY block",
)
