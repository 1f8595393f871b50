"""The history of the last days: changes delivered in each minute, and when the link went up and down."""

from __future__ import annotations

from .build import TABLES, columns, insert, names, statement

_SAMPLE = columns(TABLES.sample)
_EVENT = columns(TABLES.link_event, "at", "connected", "reason")

ADD_SAMPLE = statement(
    insert(TABLES.sample, *names(TABLES.sample)),
    "ON CONFLICT (minute) DO UPDATE SET depth = excluded.depth,",
    "published = arus_sample.published + excluded.published, sent = arus_sample.sent + excluded.sent",
)
SAMPLES = statement(f"SELECT {_SAMPLE} FROM arus_sample WHERE minute > :after ORDER BY minute")
SAMPLE_BEFORE = statement(
    f"SELECT {_SAMPLE} FROM arus_sample WHERE minute <= :after ORDER BY minute DESC LIMIT 1"
)
#: The samples of each hour together: its beginning, the depth at its end, and what was delivered and sent.
HOURS = statement(
    "SELECT h.hour * 3600000, s.depth, h.published, h.sent FROM (SELECT minute / 3600000 AS hour, MAX(minute) AS last,",
    "CAST(SUM(published) AS BIGINT) AS published, CAST(SUM(sent) AS BIGINT) AS sent FROM arus_sample WHERE minute > :after",
    "GROUP BY minute / 3600000) h JOIN arus_sample s ON s.minute = h.last ORDER BY h.hour",
)
FIRST_SAMPLE = statement("SELECT MIN(minute) FROM arus_sample")
FORGET_SAMPLES = statement("DELETE FROM arus_sample WHERE minute < :before")

ADD_EVENT = statement(insert(TABLES.link_event, *names(TABLES.link_event, without=("id",))))
EVENTS = statement(f"SELECT {_EVENT} FROM arus_link_event WHERE at > :after ORDER BY at, id")
EVENT_BEFORE = statement(
    f"SELECT {_EVENT} FROM arus_link_event WHERE at <= :after ORDER BY at DESC, id DESC LIMIT 1"
)
FORGET_EVENTS = statement("DELETE FROM arus_link_event WHERE at < :before")
