"""The dictionaries that vessels compress their messages with."""

from __future__ import annotations

from arus.outbox.sql.build import insert, names, statement

from .build import TABLES

FIND = statement(
    "SELECT content FROM arus_follow_dictionary WHERE vessel_id = :vessel_id AND id = :id"
)
#: Another partition may have just received it; the id is made from the content.
ADD = statement(
    insert(TABLES.follow_dictionary, *names(TABLES.follow_dictionary)),
    "ON CONFLICT (vessel_id, id) DO NOTHING",
)
#: Oldest first.
SIZES = statement(
    "SELECT vessel_id, id, LENGTH(content) AS size FROM arus_follow_dictionary",
    "ORDER BY received_at, id",
)
#: Those of some vessels.
SIZES_OF_SOME = statement(
    "SELECT vessel_id, id, LENGTH(content) AS size FROM arus_follow_dictionary",
    "WHERE vessel_id IN :vessel_ids ORDER BY received_at, id",
    lists=("vessel_ids",),
)
FORGET = statement("DELETE FROM arus_follow_dictionary WHERE vessel_id = :vessel_id AND id = :id")
FORGET_VESSEL = statement("DELETE FROM arus_follow_dictionary WHERE vessel_id = :vessel_id")
