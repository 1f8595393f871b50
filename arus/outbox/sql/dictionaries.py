"""The dictionaries that messages are compressed with, and from which change on each is used."""

from __future__ import annotations

from .build import TABLES, columns, insert, statement

ALL = statement(f"SELECT {columns(TABLES.dictionary)} FROM arus_dictionary ORDER BY created_at, id")
ADD = statement(
    insert(TABLES.dictionary, "id", "content", "created_at", "checked_at", "created_seq"),
    "ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at,",
    "created_seq = excluded.created_seq,",
    "checked_at = excluded.checked_at, retired_at = NULL, retired_seq = NULL",
)
#: All but one give way to it.
RETIRE = statement(
    "UPDATE arus_dictionary SET retired_at = :now, retired_seq = :seq",
    "WHERE retired_at IS NULL AND id <> :id",
)
CHECKED = statement("UPDATE arus_dictionary SET checked_at = :now WHERE id = :id")
ACKNOWLEDGED = statement("UPDATE arus_dictionary SET acknowledged = true WHERE id = :id")
#: The broker has lost its session, and maybe what it had retained.
NONE_ACKNOWLEDGED = statement("UPDATE arus_dictionary SET acknowledged = false WHERE acknowledged")
DELETE = statement("DELETE FROM arus_dictionary WHERE id = :id")

#: How changes are sent, from which number on.
USES = statement(
    f"SELECT {columns(TABLES.compressed)} FROM arus_compressed ORDER BY topic, from_seq"
)
USE = statement(
    insert(TABLES.compressed, "topic", "from_seq", "dictionary"),
    "ON CONFLICT (topic, from_seq) DO UPDATE SET dictionary = excluded.dictionary",
)
FORGET_USES = statement("DELETE FROM arus_compressed WHERE topic = :topic AND from_seq < :before")
