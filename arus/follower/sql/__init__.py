"""All SQL on the follower's tables, a name for each statement; `arus.outbox.sql` has the SQL on the log's tables."""

from . import (
    comparison,
    dictionaries,
    fleet,
    hand_over,
    held,
    partitions,
    proposals,
    refusals,
    report,
    store,
)

__all__ = [
    "comparison",
    "dictionaries",
    "fleet",
    "hand_over",
    "held",
    "partitions",
    "proposals",
    "refusals",
    "report",
    "store",
]
