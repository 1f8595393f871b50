"""Inbound data from ashore: subscriptions, dead letters, proposals, conflicts."""

from __future__ import annotations

from .build import TABLES, columns, insert, names, statement, upsert

# -- subscriptions --------------------------------------------------------------------------------

SUBSCRIPTIONS = statement(f"SELECT {columns(TABLES.subscription)} FROM arus_subscription")
SUBSCRIBED = statement(upsert(TABLES.subscription))
UNSUBSCRIBED = statement("DELETE FROM arus_subscription WHERE topic_filter = :topic_filter")
ALL_UNSUBSCRIBED = statement("DELETE FROM arus_subscription")

# -- dead letters ---------------------------------------------------------------------------------

_DEAD_LETTER = columns(TABLES.dead_letter, without=("vessel_id",))

ADD_DEAD_LETTER = statement(
    insert(TABLES.dead_letter, *names(TABLES.dead_letter, without=("id", "vessel_id")))
)
#: All but the newest of a subscription.
TRIM_DEAD_LETTERS = statement(
    "DELETE FROM arus_parked WHERE topic_filter = :topic_filter AND id <= (SELECT max(id) FROM",
    "(SELECT id FROM arus_parked WHERE topic_filter = :topic_filter",
    "ORDER BY id DESC LIMIT 1 OFFSET :most) AS beyond)",
)
DEAD_LETTERS = statement(f"SELECT {_DEAD_LETTER} FROM arus_parked ORDER BY id DESC LIMIT :limit")
DEAD_LETTER = statement(f"SELECT {_DEAD_LETTER} FROM arus_parked WHERE id = :id")
COUNT_DEAD_LETTERS = statement("SELECT COUNT(*) FROM arus_parked")
BEGUN_DEAD_LETTER = statement(
    "SELECT id, attempts FROM arus_parked"
    " WHERE topic = :topic AND reason = :reason AND payload = :payload ORDER BY id LIMIT 1"
)
COUNT_ATTEMPT = statement("UPDATE arus_parked SET attempts = attempts + 1 WHERE id = :id")
FORGET_DEAD_LETTER = statement("DELETE FROM arus_parked WHERE id = :id")

# -- proposals ------------------------------------------------------------------------------------

#: Recorded as applied until it turns out otherwise. A repeated proposal is recognised by its id.
ADD_PROPOSAL = statement(
    insert(
        TABLES.proposal,
        *names(TABLES.proposal, without=("data", "state", "sent_at", "attempts")),
        state="'applied'",
    ),
    "ON CONFLICT (proposal_id) DO NOTHING",
)
PROPOSAL_NOT_APPLIED = statement(
    "UPDATE arus_proposal SET state = 'kept' WHERE proposal_id = :proposal_id"
)
FORGET_PROPOSALS = statement(
    "DELETE FROM arus_proposal WHERE state IN ('applied', 'kept') AND settled_at < :before"
)

# -- conflicts ------------------------------------------------------------------------------------

_CONFLICT = columns(TABLES.conflict)

ADD_CONFLICT = statement(insert(TABLES.conflict, *names(TABLES.conflict, without=("id",))))
TRIM_CONFLICTS = statement(
    "DELETE FROM arus_conflict WHERE id <= (SELECT MAX(id) FROM arus_conflict) - :kept"
)
CONFLICTS = statement(
    f"SELECT {_CONFLICT} FROM arus_conflict WHERE id < :before ORDER BY id DESC LIMIT :limit"
)
CONFLICT = statement(f"SELECT {_CONFLICT} FROM arus_conflict WHERE conflict_id = :conflict_id")
COUNT_CONFLICTS = statement("SELECT COUNT(*) FROM arus_conflict")
