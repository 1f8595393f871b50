"""The time marks: up to which number all changes were committed at or before which time."""

from __future__ import annotations

from .build import TABLES, insert, names, statement

ADD = statement(
    insert(TABLES.time_mark, *names(TABLES.time_mark)),
    "ON CONFLICT (seq) DO NOTHING",
)
LAST = statement("SELECT COALESCE(MAX(seq), 0) FROM arus_time_mark")
#: A message id begins with the milliseconds of its commit, which have the same number of digits until the year 2286.
#: The first condition is true of all; it lets SQLite begin at the end of the index.
HIGHEST_MESSAGE_ID = statement(
    "SELECT message_id FROM arus_change WHERE message_id >= '0' AND seq IS NOT NULL",
    "ORDER BY message_id DESC LIMIT 1",
)
#: The mark of the latest time before another one.
BEFORE = statement(
    "SELECT seq FROM arus_time_mark WHERE highest_at < :since ORDER BY highest_at DESC, seq DESC LIMIT 1"
)
AFTER = statement("SELECT MIN(seq) FROM arus_time_mark WHERE seq > :seq")
#: The first change of a topic since a time, in a short range of numbers.
FIRST_SINCE = statement(
    "SELECT seq FROM arus_change WHERE topic = :topic AND seq > :after AND seq <= :upto",
    "AND committed_at >= :since ORDER BY seq LIMIT 1",
)
FORGET = statement("DELETE FROM arus_time_mark WHERE seq < :seq")
