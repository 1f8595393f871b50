"""What was counted on each day: bytes sent, and changes; and what the data budget holds back."""

from __future__ import annotations

from .build import TABLES, insert, names, statement

OF_DAY = statement("SELECT kind, sent FROM arus_usage WHERE day = :day")
ADD = statement(
    insert(TABLES.usage, *names(TABLES.usage)),
    "ON CONFLICT (day, kind) DO UPDATE SET sent = arus_usage.sent + excluded.sent",
)
FORGET = statement("DELETE FROM arus_usage WHERE day < :before")
#: By day and kind.
OF_DAYS = statement(
    "SELECT day, kind, sent FROM arus_usage WHERE day >= :first AND day <= :last ORDER BY day, kind"
)

_COUNTERS = (
    "SELECT :day, name, CAST(SUM(value) AS BIGINT) FROM arus_counter WHERE name <> 'bytes_sent'"
)
#: What the counters stand at, for a day; bytes are counted by day already.
CLOSE_DAY = statement(
    f"INSERT INTO arus_day_count (day, name, value) {_COUNTERS} GROUP BY name",
    "ON CONFLICT (day, name) DO UPDATE SET value = excluded.value",
)
#: The same before the first day, which is '': what was counted until then belongs to no day.
BEFORE_DAYS = statement(
    "INSERT INTO arus_day_count (day, name, value) SELECT '', name, CAST(SUM(value) AS BIGINT) FROM arus_counter",
    "WHERE name <> 'bytes_sent' AND NOT EXISTS (SELECT 1 FROM arus_day_count) GROUP BY name",
)
#: What the counters stand at now.
NOW = statement(
    "SELECT name, CAST(SUM(value) AS BIGINT) AS value FROM arus_counter WHERE name <> 'bytes_sent' GROUP BY name",
)
#: By name and day, beginning with the last day before those that are wanted.
DAY_COUNTS = statement(
    "SELECT day, name, value FROM arus_day_count WHERE day <= :last AND day >= COALESCE(",
    "(SELECT MAX(day) FROM arus_day_count WHERE day < :first), :first) ORDER BY name, day",
)
FIRST_COUNTED = statement("SELECT MIN(day) FROM arus_day_count WHERE day > ''")
#: All but the last one of the days that are too old: the first day that is kept is counted from there.
FORGET_COUNTS = statement(
    "DELETE FROM arus_day_count WHERE day < (SELECT MAX(day) FROM arus_day_count WHERE day < :before)"
)
HOLD = statement(
    "UPDATE arus_session SET held_until = :held_until, catchups_until = :catchups_until WHERE id = 1"
)
