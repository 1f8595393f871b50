"""Handing a vessel's rows over to another vessel: only the records of the rows are written."""

from __future__ import annotations

from arus.outbox.sql.build import statement, upsert

from .build import TABLES

VESSEL = statement("SELECT epoch, online FROM arus_vessel WHERE vessel_id = :vessel_id")
#: The entities of the giver's rows, and of those that the receiver claims.
ENTITIES = statement(
    "SELECT entity FROM arus_row WHERE vessel_id = :giver AND owner = '' UNION",
    "SELECT entity FROM arus_row WHERE vessel_id = :receiver AND owner = :giver AND owner <> ''",
    "ORDER BY entity",
)
#: Rows that belong to the receiver.
COUNT = statement(
    "SELECT count(*) FROM arus_row WHERE vessel_id = :receiver AND entity = :entity",
    "AND NOT deleted AND owner = ''",
)
_GIVERS = (
    "SELECT g.row_id FROM arus_row g WHERE g.vessel_id = :giver AND g.entity = :entity"
    " AND g.owner = ''"
)
#: Those that are here.
_PRESENT = f"{_GIVERS} AND NOT g.deleted AND g.version >= 0"
#: Of the receiver: records that say less than the giver's. Of a row that is here, all but those of a row that it has,
#: too.
YIELD = statement(
    "DELETE FROM arus_row WHERE vessel_id = :receiver AND entity = :entity",
    f"AND ((version < 0 AND row_id IN ({_GIVERS}))",
    "OR ((deleted OR owner NOT IN ('', :giver)) AND row_id IN",
    f"({_PRESENT})))",
)
#: Rows that the receiver has sent become its own, as it has sent them; but not one that it has only deleted and that
#: the giver still has.
TAKE = statement(
    "UPDATE arus_row SET owner = '' WHERE vessel_id = :receiver AND entity = :entity",
    f"AND owner = :giver AND NOT (deleted AND row_id IN ({_PRESENT}))",
)
#: What the giver has sent of them is now a claim.
LEAVE = statement(
    "UPDATE arus_row SET owner = :receiver WHERE vessel_id = :giver AND entity = :entity",
    "AND owner = '' AND EXISTS (SELECT 1 FROM arus_row r WHERE r.vessel_id = :receiver",
    "AND r.entity = :entity AND r.row_id = arus_row.row_id AND r.owner = '' AND r.version >= 0",
    "AND (arus_row.deleted OR NOT r.deleted))",
)
#: Rows that the receiver has never sent become its own in a version below all others: what the receiver has replaces
#: them, and those that it does not have are swept. Where the receiver has a record nevertheless, it says more than the
#: giver's, which is of a deleted row.
GIVE = statement(
    "UPDATE arus_row SET vessel_id = :receiver, seq = 0, mark = 0,",
    "version = CASE WHEN version < 0 THEN version ELSE 0 END",
    "WHERE vessel_id = :giver AND entity = :entity AND owner = '' AND NOT EXISTS",
    "(SELECT 1 FROM arus_row r WHERE r.vessel_id = :receiver AND r.entity = :entity",
    "AND r.row_id = arus_row.row_id)",
)
#: Third vessels that have sent the receiver's rows.
POINT = statement(
    "UPDATE arus_row SET owner = :receiver WHERE entity = :entity AND owner = :giver",
    "AND owner <> '' AND row_id IN (SELECT r.row_id FROM arus_row r WHERE r.vessel_id = :receiver",
    "AND r.entity = :entity AND r.owner = '' AND r.version >= 0)",
    f"AND row_id NOT IN ({_PRESENT})",
)
#: The broker has not taken them for the receiver.
PROPOSALS = statement(
    "UPDATE arus_proposal SET vessel_id = :receiver, sent_at = NULL, attempts = 0",
    "WHERE state = 'pending' AND entity = :entity AND vessel_id = :giver AND row_id IN",
    "(SELECT r.row_id FROM arus_row r WHERE r.vessel_id = :receiver",
    "AND r.entity = :entity AND r.owner = '' AND r.version >= 0)",
    f"AND row_id NOT IN ({_PRESENT})",
)
#: Also those of rows that no vessel has yet.
ALL_PROPOSALS = statement(
    "UPDATE arus_proposal SET vessel_id = :receiver, sent_at = NULL, attempts = 0",
    "WHERE state = 'pending' AND vessel_id = :giver",
)
COMPARE_AGAIN = statement(
    "UPDATE arus_vessel SET audit = NULL, audited_at = NULL WHERE vessel_id IN (:giver, :receiver)"
)

# -- a vessel that has given everything away is forgotten ------------------------------------------

HANDED_OVER = statement(upsert(TABLES.handed_over))
RETIRED = statement("SELECT vessel_id, receiver FROM arus_handed_over")
FORGET_ROWS = statement("DELETE FROM arus_row WHERE vessel_id = :giver")
#: What others claim of its rows that were not given away: they are sent again, and belong to whoever sends them.
FORGET_CLAIMS = statement("DELETE FROM arus_row WHERE owner = :giver AND owner <> ''")
FORGET_HELD = statement("DELETE FROM arus_held WHERE vessel_id = :giver")
FORGET_REFUSED = statement("DELETE FROM arus_refused WHERE vessel_id = :giver")
FORGET_COMPARED = statement("DELETE FROM arus_compared WHERE vessel_id = :giver")
FORGET_POSITIONS = statement("DELETE FROM arus_position WHERE vessel_id = :giver")
FORGET_VESSEL = statement("DELETE FROM arus_vessel WHERE vessel_id = :giver")
