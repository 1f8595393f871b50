"""Proposals of this side, and the owners of their rows."""

from __future__ import annotations

from arus.outbox.sql.build import TABLES, columns, insert, names, statement

OWNER = statement(
    "SELECT vessel_id, version, deleted FROM arus_row WHERE vessel_id IN",
    "(SELECT vessel_id FROM arus_vessel) AND entity = :entity AND row_id = :row_id",
    "AND owner = '' AND version >= 0 ORDER BY deleted, vessel_id",
)
VESSELS = statement("SELECT vessel_id FROM arus_vessel ORDER BY vessel_id")

ADD = statement(
    insert(
        TABLES.proposal,
        *names(TABLES.proposal, without=("state", "sent_at", "attempts", "settled_at")),
        state="'pending'",
        attempts="0",
    )
)
EARLIER = statement(
    "SELECT proposal_id, version FROM arus_proposal WHERE state = 'pending' AND entity = :entity",
    "AND row_id = :row_id AND vessel_id = :vessel_id",
)
PENDING = statement("SELECT 1 FROM arus_proposal WHERE state = 'pending' LIMIT 1")
COUNT = statement("SELECT COUNT(*) FROM arus_proposal WHERE state = 'pending'")
DUE = statement(
    f"SELECT {columns(TABLES.proposal, without=('state', 'settled_at'))} FROM arus_proposal",
    "WHERE state = 'pending' ORDER BY at, proposal_id",
)
SENT = statement("UPDATE arus_proposal SET sent_at = :now WHERE proposal_id = :proposal_id")
AGAIN = statement("UPDATE arus_proposal SET sent_at = NULL WHERE state = 'pending'")
AGAIN_TO = statement(
    "UPDATE arus_proposal SET sent_at = NULL WHERE state = 'pending'",
    "AND vessel_id IN :vessel_ids",
    lists=("vessel_ids",),
)
TAKEN = statement(
    "UPDATE arus_proposal SET attempts = attempts + 1",
    "WHERE proposal_id = :proposal_id AND state = 'pending'",
)
WITHDRAW = statement(
    "UPDATE arus_proposal SET state = 'withdrawn', data = NULL, settled_at = :now",
    "WHERE proposal_id = :proposal_id AND state = 'pending'",
)
ANSWERED = statement(
    "UPDATE arus_proposal SET state = 'answered', data = NULL, settled_at = :now",
    "WHERE state = 'pending' AND attempts > 0 AND entity = :entity AND row_id = :row_id",
    "AND vessel_id = :vessel_id AND version < :version",
)
ANSWERED_BEFORE = statement(
    "UPDATE arus_proposal SET state = 'answered', data = NULL, settled_at = :now",
    "WHERE proposal_id = :proposal_id AND state = 'pending' AND EXISTS (SELECT 1 FROM arus_row r",
    "WHERE r.vessel_id = arus_proposal.vessel_id AND r.entity = arus_proposal.entity",
    "AND r.row_id = arus_proposal.row_id AND r.version > arus_proposal.version)",
)
FORGET = statement(
    "DELETE FROM arus_proposal WHERE state IN ('answered', 'withdrawn') AND settled_at < :before"
)
ALL = statement(
    f"SELECT {columns(TABLES.proposal, without=('data', 'origin'))} FROM arus_proposal",
    "WHERE state IN ('pending', 'answered', 'withdrawn')",
    "ORDER BY at DESC, proposal_id LIMIT :limit",
)
