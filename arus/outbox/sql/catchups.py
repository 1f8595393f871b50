"""Catch-ups: requesting, running and deleting them."""

from __future__ import annotations

from .build import TABLES, columns, insert, statement

_ALL = columns(TABLES.catchup)
# The request.
_WANTED = (
    "since_at", "since_seq", "since_epoch", "cursor", "item_limit", "buckets", "wants_snapshot",
)  # fmt: skip
_ASKED_BY = ("origin", "consumer", "request_id")
# The state from which a run continues.
_RUN = columns(
    TABLES.catchup,
    *("id", "catchup_id", "request_id", "entity", "topic", "mode", "consumer", "receive_window"),
    *("requester", "origin"),
    *_WANTED,
    *("position", "high_seq", "total", "published", "received", "digest", "covers"),
)

# -- requests -------------------------------------------------------------------------------------

#: The same request may have been queued at the same time over another channel; the first one counts.
QUEUE = statement(
    insert(
        TABLES.catchup,
        *("catchup_id", "request_id", "origin", "entity", "topic", *_WANTED, "created_at"),
        *("consumer", "requester", "receive_window"),
        status="'queued'",
    ),
    "ON CONFLICT (request_id, entity) DO NOTHING",
)
QUEUE_REPAIR = statement(
    insert(
        TABLES.catchup,
        *("catchup_id", "entity", "topic", "high_seq", "total", "covers", "created_at"),
        origin="'repair'",
        requester="'/repair'",
        status="'queued'",
        mode="'repair'",
    )
)
#: Repairs that are not complete.
REPAIRS = statement(
    "SELECT topic, covers FROM arus_catchup",
    "WHERE status IN ('queued', 'running') AND mode = 'repair'",
)
KNOWN = statement(
    "SELECT catchup_id FROM arus_catchup WHERE request_id = :request_id ORDER BY id LIMIT 1"
)
#: How many rows each requester has queued; repairs are no request.
WAITING = statement(
    "SELECT requester, COUNT(*) AS rows FROM arus_catchup",
    "WHERE status = 'queued' AND origin <> 'repair' GROUP BY requester",
)
#: What is queued, to find a request that is identical to a new one.
QUEUED = statement(
    f"SELECT catchup_id, {columns(TABLES.catchup, 'entity', *_ASKED_BY, *_WANTED)} FROM arus_catchup",
    "WHERE status = 'queued' AND origin <> 'repair' ORDER BY id",
)
FIND = statement(f"SELECT {_ALL} FROM arus_catchup WHERE catchup_id = :catchup_id ORDER BY id")
RECENT_IDS = statement(
    "SELECT catchup_id FROM arus_catchup GROUP BY catchup_id ORDER BY MIN(id) DESC LIMIT :limit"
)
RECENT = statement(
    f"SELECT {_ALL} FROM arus_catchup WHERE catchup_id IN :catchup_ids ORDER BY id",
    lists=("catchup_ids",),
)

# -- running --------------------------------------------------------------------------------------

#: Runs that are not finished, oldest first.
UNFINISHED = statement(
    "SELECT id, requester, consumer, entity, origin FROM arus_catchup",
    "WHERE status IN ('queued', 'running') AND entity <> :digest ORDER BY id",
)
#: What runs have sent, also those that are not finished; the vessel's own repairs are no request.
EARLIER = statement(
    "SELECT COALESCE(requester, '/' || origin) AS requester, entity, total, published, finished_at",
    "FROM arus_catchup WHERE origin <> 'repair' AND mode IS NOT NULL",
    "ORDER BY CASE WHEN finished_at IS NULL THEN 1 ELSE 0 END, finished_at, id",
)
RUN = statement(
    f"SELECT {_RUN} FROM arus_catchup WHERE id = :id AND status IN ('queued', 'running')"
)
#: Of the runs that were requested by the consumer who reports it.
RECEIVED = statement(
    "UPDATE arus_catchup SET received = :received WHERE catchup_id = :catchup_id AND entity = :entity",
    "AND consumer = :consumer AND received < :received AND status = 'running'",
)
PLAN = statement(
    "UPDATE arus_catchup SET status = 'running', mode = :mode, since_seq = :since_seq,",
    "position = :position, high_seq = :high_seq, total = :total, published = 0, received = 0, digest = ''",
    "WHERE id = :id",
)
PROGRESS = statement(
    "UPDATE arus_catchup SET status = :status, position = :position, published = :published,",
    "digest = :digest, next_cursor = :next_cursor, finished_at = :finished_at",
    "WHERE id = :id AND status <> 'failed'",
)
FAIL = statement(
    "UPDATE arus_catchup SET status = 'failed', reason = :reason, finished_at = :now WHERE id = :id"
)
#: Has running catch-ups planned again in a new epoch; their receivers have to refetch everything in any case.
PLAN_AGAIN = statement(
    "UPDATE arus_catchup",
    "SET status = 'queued', mode = NULL, position = '', published = 0, received = 0, total = NULL",
    "WHERE status = 'running' AND mode <> 'repair'",
)
DIGEST_REQUESTS = statement(
    "SELECT id FROM arus_catchup",
    "WHERE status = 'queued' AND entity = :all AND id > :after ORDER BY id",
)
DIGEST_TAKEN = statement(
    "UPDATE arus_catchup SET status = 'complete', mode = 'digest', total = 0, finished_at = :now",
    "WHERE id = :id",
)

#: What has ended in a time, by origin.
ENDED = statement(
    "SELECT origin, COUNT(DISTINCT catchup_id) AS catchups, COALESCE(SUM(published), 0) AS rows FROM arus_catchup",
    "WHERE status = 'complete' AND mode <> 'digest' AND finished_at >= :begin AND finished_at <= :end",
    "GROUP BY origin ORDER BY origin",
)

# -- deleting -------------------------------------------------------------------------------------

EXPIRED = statement(
    "SELECT id FROM arus_catchup WHERE status = 'complete' AND created_at < :before",
    "ORDER BY id LIMIT :limit",
)
DELETE = statement("DELETE FROM arus_catchup WHERE id = :id")
TRIM = statement(
    "DELETE FROM arus_catchup WHERE status IN ('complete', 'failed')",
    "AND id <= (SELECT MAX(id) FROM arus_catchup) - :kept",
)
