"""What each follower has reported about itself."""

from __future__ import annotations

from .build import TABLES, columns, statement, upsert

KNOWN = statement("SELECT name FROM arus_follower WHERE name = :name")
COUNT = statement("SELECT COUNT(*) FROM arus_follower")
SAVE = statement(upsert(TABLES.follower))
FORGET = statement("DELETE FROM arus_follower WHERE name = :name")
SILENT = statement(
    "SELECT name, received_at FROM arus_follower WHERE received_at < :before",
    "ORDER BY received_at LIMIT 1",
)
ALL = statement(
    f"SELECT {columns(TABLES.follower, alias='f')}, s.epoch AS current_epoch, s.head_seq",
    "FROM arus_follower f JOIN arus_session s ON s.id = 1 ORDER BY f.name",
)
