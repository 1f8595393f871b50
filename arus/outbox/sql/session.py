"""The session: one row that says which vessel and epoch this is, who owns it, and how the link stands."""

from __future__ import annotations

from .build import TABLES, insert, statement

FIRST = statement(
    insert(TABLES.session, "epoch", "vessel_id", id="1"), "ON CONFLICT (id) DO NOTHING"
)
NAME_VESSEL = statement("UPDATE arus_session SET vessel_id = :vessel_id WHERE id = 1")
TAKE_OVER = statement(
    "UPDATE arus_session SET generation = generation + 1, owner_pid = :pid, owner_host = :host,",
    "owner_since = :now, connected = false, connected_changed_at =",
    "CASE WHEN connected OR connected_changed_at IS NULL THEN :now ELSE connected_changed_at END",
    "WHERE id = 1",
)
STAND_DOWN = statement(
    "UPDATE arus_session SET owner_pid = NULL, owner_host = NULL, owner_since = NULL WHERE id = 1"
)
OWNED = statement(
    "SELECT epoch, vessel_id, head_seq, generation, clean_start FROM arus_session WHERE id = 1"
)
#: The current owner's generation, as driver SQL: each transaction of the relay begins with this check.
FENCE = "SELECT generation FROM arus_session WHERE id = 1"
#: On PostgreSQL a takeover waits until the transaction has ended; SQLite has only one writer.
FENCE_AND_LOCK = f"{FENCE} FOR UPDATE"

HEAD = statement("SELECT epoch, vessel_id, head_seq FROM arus_session WHERE id = 1")
SAVE_HEAD = statement("UPDATE arus_session SET head_seq = :head_seq WHERE id = 1")
NEW_EPOCH = statement("UPDATE arus_session SET epoch = :epoch, clean_start = true WHERE id = 1")
CLAIMED_AT = statement("SELECT claimed_at FROM arus_session WHERE id = 1")
#: What a person is told about a proof that the database was restored; it has begun an epoch, or has not.
EPOCH_PROVED = statement(
    "UPDATE arus_session SET claimed_at = :now, epoch_note = :note, epoch_noted_at = :now WHERE id = 1"
)
EPOCH_NOTED = statement(
    "UPDATE arus_session SET epoch_note = :note, epoch_noted_at = :now WHERE id = 1"
)
CONNECTED = statement(
    "UPDATE arus_session SET connected = :connected, connected_changed_at = :now,",
    "protocol = :protocol, reconnect_attempts = :attempts, reason = :reason, clean_start = false,",
    "stalled_since = NULL, obstacle = NULL",
    "WHERE id = 1",
)
ATTEMPTS = statement(
    "UPDATE arus_session SET reconnect_attempts = :attempts, reason = :reason WHERE id = 1"
)
STALLED = statement(
    "UPDATE arus_session SET stalled_since = :since, obstacle = :obstacle WHERE id = 1"
)
NEIGHBOUR = statement(
    "UPDATE arus_session SET neighbour = :neighbour, neighbour_at = :now WHERE id = 1"
)
NO_NEIGHBOUR = statement(
    "UPDATE arus_session SET neighbour = NULL, neighbour_at = NULL WHERE id = 1"
)

#: How far the log reaches back.
REACH = statement("SELECT vessel_id, pruned_seq, complete_since FROM arus_session WHERE id = 1")
BEGAN = statement("UPDATE arus_session SET complete_since = :since WHERE id = 1")
PRUNED = statement(
    "UPDATE arus_session SET",
    "pruned_seq = CASE WHEN pruned_seq < :seq THEN :seq ELSE pruned_seq END,",
    "complete_since = CASE WHEN complete_since < :before THEN :before ELSE complete_since END",
    "WHERE id = 1",
)
#: SQLite: takes the write lock, as a write that changes nothing; driver SQL.
TAKE_WRITE_LOCK = "UPDATE arus_session SET generation = generation WHERE 1 = 0"
