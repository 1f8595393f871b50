"""The row records, for comparing them with the vessel's digest and with the tables."""

from __future__ import annotations

from arus.outbox.sql.build import columns, insert, statement, upsert

from .build import TABLES

VESSELS = statement("SELECT vessel_id FROM arus_vessel")
ROWS = statement(
    "SELECT row_id, version, hash, bucket FROM arus_row",
    "WHERE vessel_id = :vessel_id AND entity = :entity AND NOT deleted",
)
LAST = statement("SELECT MAX(seq) FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity")
#: A vessel's own rows.
OWN = statement(
    "SELECT row_id, version, hash FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND NOT deleted AND owner = '' AND row_id > :after ORDER BY row_id LIMIT :limit",
)
#: What other vessels have sent of some rows.
OTHERS = statement(
    "SELECT vessel_id, row_id, version, owner FROM arus_row",
    "WHERE entity = :entity AND row_id IN :row_ids AND NOT deleted AND vessel_id <> :vessel_id",
    lists=("row_ids",),
)
#: Those of some rows that belong to a vessel.
OWNED = statement(
    "SELECT row_id FROM arus_row WHERE entity = :entity AND row_id IN :row_ids",
    "AND NOT deleted AND owner = '' AND version >= 0",
    lists=("row_ids",),
)
KNOWN = statement(
    "SELECT row_id FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND row_id IN :row_ids AND NOT deleted",
    lists=("row_ids",),
)
CLAIMS = statement(
    "SELECT row_id, owner FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND NOT deleted AND owner <> '' AND row_id > :after ORDER BY row_id LIMIT :limit",
)
PROPOSED = statement(
    "SELECT row_id FROM arus_proposal WHERE state = 'pending' AND entity = :entity",
    "AND row_id IN :row_ids",
    lists=("row_ids",),
)
#: Rows that show what was proposed for them, not what the vessel has.
PROPOSALS = statement(
    "SELECT row_id FROM arus_proposal WHERE state = 'pending' AND entity = :entity",
    "AND vessel_id = :vessel_id ORDER BY row_id",
)
HELD = statement(
    "SELECT row_id, reason FROM arus_held WHERE vessel_id = :vessel_id AND entity = :entity",
    "ORDER BY row_id",
)
COMPARED = statement(f"SELECT {columns(TABLES.compared)} FROM arus_compared")
COMPARED_OF = statement(
    f"SELECT {columns(TABLES.compared)} FROM arus_compared WHERE vessel_id IN :vessel_ids",
    lists=("vessel_ids",),
)
SAVE_COMPARED = statement(upsert(TABLES.compared))
FORGET_COMPARED = statement("DELETE FROM arus_compared WHERE vessel_id = :vessel_id")
#: A row whose record has changed meanwhile is left alone.
HASH_AGAIN = statement(
    "UPDATE arus_row SET hash = :hash WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND row_id = :row_id AND hash = :before",
)
#: A row without a record, or with a tombstone: the sweep at the end of the repair deletes it unless the vessel sends
#: it. Version -1 means that it has no owner: the first vessel that sends it becomes its owner.
ADOPT = statement(
    insert(
        TABLES.row,
        *("vessel_id", "entity", "row_id", "bucket"),
        version="-1",
        seq="0",
        deleted="false",
        hash="''",
        mark="0",
    ),
    "ON CONFLICT (vessel_id, entity, row_id) DO UPDATE SET deleted = false, hash = '', mark = 0",
)
