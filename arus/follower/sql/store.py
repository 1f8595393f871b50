"""A follower's state: vessels, positions, records of rows, dead letters."""

from __future__ import annotations

from functools import cache

from arus.outbox.sql import build
from arus.outbox.sql.build import columns, insert, names, statement, upsert

from .build import TABLES, upsert_rows

# -- vessels and positions ------------------------------------------------------------------------

VESSELS = statement(f"SELECT {columns(TABLES.vessel)} FROM arus_vessel ORDER BY vessel_id")
POSITIONS = statement(f"SELECT {columns(TABLES.position)} FROM arus_position")
#: Those of some vessels.
VESSELS_OF = statement(
    f"SELECT {columns(TABLES.vessel)} FROM arus_vessel WHERE vessel_id IN :vessel_ids",
    "ORDER BY vessel_id",
    lists=("vessel_ids",),
)
POSITIONS_OF = statement(
    f"SELECT {columns(TABLES.position)} FROM arus_position WHERE vessel_id IN :vessel_ids",
    lists=("vessel_ids",),
)

FORGET_VESSEL = statement("DELETE FROM arus_vessel WHERE vessel_id = :vessel_id")
FORGET_POSITIONS = statement("DELETE FROM arus_position WHERE vessel_id = :vessel_id")


@cache
def save_vessels(dialect: str) -> str:
    """Return the driver SQL that saves vessels (`upsert_rows`)."""
    return upsert_rows(TABLES.vessel, dialect)


@cache
def save_positions(dialect: str) -> str:
    """Return the driver SQL that saves positions (`upsert_rows`)."""
    return upsert_rows(TABLES.position, dialect)


#: The latest events of each vessel.
ADD_EVENT = statement(insert(TABLES.vessel_event, *names(TABLES.vessel_event, without=("id",))))
#: All but the latest of a vessel.
TRIM_EVENTS = statement(
    "DELETE FROM arus_vessel_event WHERE vessel_id = :vessel_id AND id <= (",
    "SELECT max(id) FROM (SELECT id FROM arus_vessel_event WHERE vessel_id = :vessel_id",
    "ORDER BY id DESC LIMIT 1 OFFSET :most) AS beyond)",
)
FORGET_EVENTS = statement("DELETE FROM arus_vessel_event WHERE vessel_id = :vessel_id")

SAVE_LINK = statement(upsert(TABLES.follow_link, without=("filters", "refused")))
FILTERS = statement("SELECT filters FROM arus_follow_link WHERE name = :name")
SAVE_FILTERS = statement("UPDATE arus_follow_link SET filters = :filters WHERE name = :name")
SAVE_REFUSED = statement("UPDATE arus_follow_link SET refused = :refused WHERE name = :name")

# -- rows -----------------------------------------------------------------------------------------

ROWS = statement(
    f"SELECT {columns(TABLES.row, without=('vessel_id', 'entity', 'owner'))} FROM arus_row",
    "WHERE vessel_id = :vessel_id AND entity = :entity AND row_id IN :row_ids",
    lists=("row_ids",),
)


@cache
def claimed(dialect: str) -> str:
    """Return the driver SQL that reads all vessels' records of rows; its parameters are entity and ids, a JSON array.

    A list of parameters would be compiled and planned again for each batch.
    """
    ids = (
        "IN (SELECT value FROM json_each(?))"
        if dialect == "sqlite"
        else "= ANY(ARRAY(SELECT json_array_elements_text(CAST(%s AS json))))"
    )
    return (
        f"SELECT {columns(TABLES.row, without=('entity',))} FROM arus_row"
        f" WHERE entity = {'?' if dialect == 'sqlite' else '%s'} AND row_id {ids}"
        " ORDER BY deleted, vessel_id"
    )


@cache
def save_rows(dialect: str) -> str:
    """Return the driver SQL that saves records of rows (`upsert_rows`)."""
    return upsert_rows(TABLES.row, dialect)


@cache
def takes_ids_for_others(dialect: str) -> str:
    """Return the driver SQL that finds a row if a key's column takes different texts for the same.

    Its parameters are the table's name, and on PostgreSQL the column's name.
    """
    if dialect == "sqlite":
        return (
            "SELECT 1 FROM pragma_index_list(?) AS i, pragma_index_xinfo(i.name) AS c"
            " WHERE i.origin = 'pk' AND c.key = 1 AND c.coll <> 'BINARY'"
        )
    return (
        "SELECT 1 FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid"
        " LEFT JOIN pg_collation AS c ON c.oid = a.attcollation"
        " WHERE a.attrelid = to_regclass(%s) AND a.attname = %s"
        " AND (t.typname = 'citext' OR NOT c.collisdeterministic)"
    )


ANY_ROW = statement("SELECT 1 FROM arus_row WHERE vessel_id = :vessel_id LIMIT 1")
OWN_ROWS = statement(
    "SELECT row_id FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND NOT deleted AND owner = '' AND version >= 0",
)
FORGET_ROWS = statement("DELETE FROM arus_row WHERE vessel_id = :vessel_id")
#: What other vessels have sent of a vessel's rows; of each row first who has it.
CLAIMED_OF = statement(
    "SELECT entity, row_id, vessel_id FROM arus_row WHERE owner = :vessel_id AND owner <> ''",
    "ORDER BY entity, row_id, deleted, vessel_id",
)
PASS_ON = statement(
    "UPDATE arus_row SET owner = :owner WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND row_id = :row_id",
)
_UNSEEN = (
    "FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted"
    " AND seq <= :high_seq AND mark <> :mark AND bucket IN :buckets"
)
#: Rows that a snapshot did not contain, a thousand at a time.
UNSEEN = statement(
    "SELECT row_id, version, hash, bucket",
    _UNSEEN,
    "AND row_id > :after ORDER BY row_id LIMIT 1000",
    lists=("buckets",),
)
COUNT_UNSEEN = statement("SELECT COUNT(*)", _UNSEEN, lists=("buckets",))
COUNT_ROWS = statement(
    "SELECT COUNT(*) FROM arus_row",
    "WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted",
)
BURY = statement(
    "UPDATE arus_row SET deleted = true, hash = ''",
    "WHERE vessel_id = :vessel_id AND entity = :entity AND row_id IN :row_ids",
    lists=("row_ids",),
)
#: Tombstones stay, with version 0: a row of this vessel does not become another vessel's in its next epoch.
FORGET_VERSIONS = statement(
    "UPDATE arus_row SET version = 0, seq = 0 WHERE vessel_id = :vessel_id AND version > 0"
)
FORGET_NUMBERS = statement(
    "UPDATE arus_row SET seq = :seq",
    "WHERE vessel_id = :vessel_id AND entity = :entity AND seq > :seq",
)

# -- dead letters ---------------------------------------------------------------------------------

ADD_DEAD_LETTER = statement(
    insert(
        build.TABLES.dead_letter,
        *("topic", "payload", "topic_filter", "reason", "parked_at", "vessel_id"),
        attempts="1",
    )
)
#: All but the newest of a vessel.
TRIM_DEAD_LETTERS = statement(
    "DELETE FROM arus_parked WHERE topic_filter = :topic_filter AND vessel_id = :vessel_id",
    "AND id <= (SELECT max(id) FROM (SELECT id FROM arus_parked",
    "WHERE topic_filter = :topic_filter AND vessel_id = :vessel_id",
    "ORDER BY id DESC LIMIT 1 OFFSET :most) AS beyond)",
)

# -- the transaction, as driver SQL ---------------------------------------------------------------

#: Disables PostgreSQL's foreign key checks in this transaction.
UNCHECKED = "SET LOCAL session_replication_role = replica"
#: Where they can't be disabled: have PostgreSQL check also the deferred constraints when a row is written, not at the
#: commit, where no row can be named, held or refused.
CHECKED_AT_ONCE = "SET CONSTRAINTS ALL IMMEDIATE"
#: Until `CHECKED_AT_ONCE`.
CHECKED_LATER = "SET CONSTRAINTS ALL DEFERRED"
