"""Handing a vessel's rows over to another vessel: only the records of the rows are written."""

from __future__ import annotations

from arus.outbox.sql.build import statement, upsert

from .build import TABLES

VESSEL = statement("SELECT epoch, online FROM arus_vessel WHERE vessel_id = :vessel_id")
#: The entities of a vessel's own rows.
ENTITIES = statement(
    "SELECT DISTINCT entity FROM arus_row WHERE vessel_id = :giver AND owner = '' ORDER BY entity"
)
#: Rows that belong to the receiver.
COUNT = statement(
    "SELECT count(*) FROM arus_row WHERE vessel_id = :receiver AND entity = :entity",
    "AND NOT deleted AND owner = ''",
)
#: Of the receiver: records that say less than the giver's about a row that is here.
YIELD = statement(
    "DELETE FROM arus_row WHERE vessel_id = :receiver AND entity = :entity",
    "AND ((deleted AND owner = :giver) OR version < 0) AND row_id IN",
    "(SELECT g.row_id FROM arus_row g WHERE g.vessel_id = :giver AND g.entity = :entity",
    "AND g.owner = '' AND NOT g.deleted)",
)
#: Rows that the receiver has sent become its own, as it has sent them.
TAKE = statement(
    "UPDATE arus_row SET owner = '' WHERE vessel_id = :receiver AND entity = :entity",
    "AND owner = :giver",
)
#: What the giver has sent of them is now a claim.
LEAVE = statement(
    "UPDATE arus_row SET owner = :receiver WHERE vessel_id = :giver AND entity = :entity",
    "AND owner = '' AND row_id IN (SELECT r.row_id FROM arus_row r WHERE r.vessel_id = :receiver",
    "AND r.entity = :entity AND r.owner = '' AND r.version >= 0)",
)
#: Rows that the receiver has never sent become its own in a version below all others: what the receiver has replaces
#: them, and those that it does not have are swept.
GIVE = statement(
    "UPDATE arus_row SET vessel_id = :receiver, version = 0, seq = 0, mark = 0",
    "WHERE vessel_id = :giver AND entity = :entity AND owner = ''",
)
#: Third vessels that have sent the receiver's rows.
POINT = statement(
    "UPDATE arus_row SET owner = :receiver WHERE entity = :entity AND owner = :giver",
    "AND owner <> '' AND row_id IN (SELECT r.row_id FROM arus_row r WHERE r.vessel_id = :receiver",
    "AND r.entity = :entity AND r.owner = '')",
)
PROPOSALS = statement(
    "UPDATE arus_proposal SET vessel_id = :receiver, sent_at = NULL WHERE state = 'pending'",
    "AND entity = :entity AND vessel_id = :giver AND row_id IN",
    "(SELECT r.row_id FROM arus_row r WHERE r.vessel_id = :receiver",
    "AND r.entity = :entity AND r.owner = '')",
)
COMPARE_AGAIN = statement(
    "UPDATE arus_vessel SET audit = NULL WHERE vessel_id IN (:giver, :receiver)"
)

# -- a vessel that has given everything away is forgotten ------------------------------------------

HANDED_OVER = statement(upsert(TABLES.handed_over))
RETIRED = statement("SELECT vessel_id, receiver FROM arus_handed_over")
FORGET_ROWS = statement("DELETE FROM arus_row WHERE vessel_id = :giver")
FORGET_HELD = statement("DELETE FROM arus_held WHERE vessel_id = :giver")
FORGET_REFUSED = statement("DELETE FROM arus_refused WHERE vessel_id = :giver")
FORGET_COMPARED = statement("DELETE FROM arus_compared WHERE vessel_id = :giver")
FORGET_POSITIONS = statement("DELETE FROM arus_position WHERE vessel_id = :giver")
FORGET_VESSEL = statement("DELETE FROM arus_vessel WHERE vessel_id = :giver")
