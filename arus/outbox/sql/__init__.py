"""All SQL that reads or writes the log's tables: one module for each group of tables, one name for each statement.

Code on the vessel's side reads and writes the log only with the statements of this package (a test checks this).
Lists of columns come from the definitions in `arus.outbox.tables`.

The statements are plain text, not SQLAlchemy expressions: the same text of an upsert works on SQLite and PostgreSQL,
where SQLAlchemy needs one expression for each; `CROSS JOIN`, which fixes the join order in SQLite, has no SQLAlchemy
expression; and query plans and timings refer to exactly the text written here. Every public name in capitals is one
complete statement (only `entries.WRITTEN` is a list of columns), and its plan is tested on both databases.
"""

from . import (
    brokers,
    catchups,
    changes,
    counters,
    database,
    dictionaries,
    entries,
    followers,
    history,
    inbound,
    pruning,
    row_versions,
    session,
    status,
    tallies,
    time_marks,
    topic_queues,
    usage,
)

__all__ = [
    "brokers",
    "catchups",
    "changes",
    "counters",
    "database",
    "dictionaries",
    "entries",
    "followers",
    "history",
    "inbound",
    "pruning",
    "row_versions",
    "session",
    "status",
    "tallies",
    "time_marks",
    "topic_queues",
    "usage",
]
