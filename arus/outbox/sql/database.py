"""Queries on the database itself instead of the log's tables: locks, migrations, durability."""

from __future__ import annotations

from .build import statement

# -- PostgreSQL: the owner's lock -----------------------------------------------------------------

LOCK = statement("SELECT pg_advisory_lock(:key)")
#: Until the end of the transaction.
LOCK_IN_TRANSACTION = statement("SELECT pg_advisory_xact_lock(:key)")
TRY_LOCK = statement("SELECT pg_try_advisory_lock(:key)")
#: Whether any process holds it; `pg_locks` shows the key as two halves.
IS_LOCKED = statement(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted",
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "AND classid::bigint = :high AND objid::bigint = :low)",
)

# -- PostgreSQL: the locks of a follower's partitions, each with a kind and a number ---------------

TRY_SHARE = statement("SELECT pg_try_advisory_lock_shared(:key)")
TRY_LOCK_OF = statement("SELECT pg_try_advisory_lock(:kind, :number)")
TRY_SHARE_OF = statement("SELECT pg_try_advisory_lock_shared(:kind, :number)")
UNLOCK_OF = statement("SELECT pg_advisory_unlock(:kind, :number)")
#: Who holds locks of some kinds, and since when each session waits for its client, in seconds (NULL: it does not).
HOLDERS = statement(
    "SELECT l.classid::bigint AS kind, l.objid::bigint AS number, l.pid, a.backend_start,",
    "CASE WHEN a.wait_event_type = 'Client' THEN extract(epoch FROM now() - a.state_change)::float8 END AS silent",
    "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid",
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2",
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "AND l.classid::bigint IN :kinds ORDER BY a.backend_start NULLS LAST, l.pid, number",
    lists=("kinds",),
)
END_SESSION = statement("SELECT pg_terminate_backend(:pid)")
OWN_PID = statement("SELECT pg_backend_pid()")
#: Shows the server that the session is alive; driver SQL.
BEAT = "SELECT 1"

# -- checks of `flask sync doctor` ----------------------------------------------------------------

MIGRATIONS = statement("SELECT version_num FROM alembic_version")
#: SQLite, as driver SQL.
JOURNAL_MODE = "PRAGMA journal_mode"
SYNCHRONOUS = "PRAGMA synchronous"
#: Begins the snapshot of a read transaction.
FIRST_READ = "SELECT 1 FROM sqlite_schema LIMIT 1"
QUICK_CHECK = "PRAGMA quick_check(1)"


def show(setting: str) -> str:
    """Return the driver SQL that reads a setting of PostgreSQL."""
    return f"SHOW {setting}"
