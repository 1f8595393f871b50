"""Log entries for capture and relay: writing, numbering, reading and completing them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Select, String, cast, exists, select

from arus.protocol.entries import Entry

from .build import TABLES, columns, insert, names, statement

_ENTRY = columns(TABLES.change, *Entry._fields)
# An entry without a number gets 0 in its place.
_UNNUMBERED_ENTRY = ", ".join(
    "0" if name in {"seq", "previous_seq"} else name for name in Entry._fields
)

#: The columns that are written when a change is committed.
WRITTEN = names(TABLES.change, without=("id", "seq", "previous_seq"))

#: Above each version.
_ABOVE_ALL = 2**63 - 1


#: An entry of a drill.
REPEAT = statement(insert(TABLES.change, *WRITTEN))


@cache
def insert_entry(paramstyle: str) -> str:
    """Return the driver SQL that inserts an entry, for the values of `WRITTEN` in their order.

    An INSERT through SQLAlchemy would take several times as long in each request that writes.
    """
    marks = _marks("?" if paramstyle == "qmark" else "%s", WRITTEN)
    return f"INSERT INTO {TABLES.change.name} ({', '.join(WRITTEN)}) VALUES ({marks})"


@cache
def insert_new_entry(paramstyle: str) -> str:
    """Return the driver SQL that inserts an entry, unless the last entry of its row has its version or a newer one, or is a
    deletion.

    For whether that may be, its entity and its row id, the version (0: the row must have no entry), and the values of
    `WRITTEN`.
    """
    change, into = TABLES.change.name, ", ".join(WRITTEN)
    mark = "?" if paramstyle == "qmark" else "%s"
    is_news = (
        f"{mark} OR COALESCE((SELECT CASE operation WHEN 'delete' THEN {_ABOVE_ALL} ELSE version END FROM {change}"
        f" WHERE entity = {mark} AND row_id = {mark} ORDER BY id DESC LIMIT 1), -1) < {mark}"
    )
    if paramstyle != "qmark":
        return (
            f"WITH guard AS (SELECT {is_news} AS wanted)"
            f" INSERT INTO {change} ({into}) SELECT {_marks('%s', WRITTEN)} FROM guard WHERE wanted"
        )
    # SQLite copies what it selects from the table that it inserts into, which doubles the time. Without its id, which
    # is the first column, the entry is ignored.
    return (
        f"INSERT OR IGNORE INTO {change} ({into}) VALUES (CASE WHEN {is_news} THEN ? END,"
        f" {_marks('?', WRITTEN[1:])})"
    )


def _marks(mark: str, written: Sequence[str]) -> str:
    return ", ".join([mark] * len(written))


WRITTEN_IDS = statement(
    "SELECT message_id FROM arus_change WHERE message_id IN :message_ids", lists=("message_ids",)
)
#: The last entry of a row, whatever its outcome.
LAST_OF_ROW = statement(
    "SELECT operation, version, committed_at, data, outcome FROM arus_change",
    "WHERE entity = :entity AND row_id = :row_id ORDER BY id DESC LIMIT 1",
)

_LAST_OF_ROWS = (
    "FROM arus_change c WHERE c.id IN (SELECT MAX(id) FROM arus_change"
    " WHERE entity = :entity AND row_id IN :row_ids GROUP BY row_id)"
)
#: The last entry of each row, without and with its content.
LAST_OF_ROWS = statement(
    "SELECT c.row_id, c.operation, c.version", _LAST_OF_ROWS, lists=("row_ids",)
)
LAST_CONTENTS = statement(
    "SELECT c.row_id, c.operation, c.version, c.data, c.outcome, c.reason",
    _LAST_OF_ROWS,
    lists=("row_ids",),
)
#: The ids of an entity's rows that have an entry, in the order of their index.
LOGGED_ROWS = statement(
    "SELECT row_id FROM arus_change WHERE entity = :entity AND row_id > :after",
    "GROUP BY row_id ORDER BY row_id LIMIT :limit",
)

UNNUMBERED = statement(
    f"SELECT {_UNNUMBERED_ENTRY} FROM arus_change",
    "WHERE seq IS NULL AND outcome IS NULL ORDER BY id LIMIT :limit",
)
UNNUMBERED_TOPICS = statement(
    "SELECT id, topic FROM arus_change",
    "WHERE seq IS NULL AND outcome IS NULL ORDER BY id LIMIT :limit",
)
NUMBER = statement("UPDATE arus_change SET seq = :seq, previous_seq = :previous_seq WHERE id = :id")
NUMBERS = statement("SELECT id, topic, seq FROM arus_change WHERE id >= :first AND id <= :last")

#: The newest entries, of all topics or of one; those without a number have 0 in its place.
_SENT_ENTRY = ", ".join(
    f"COALESCE({name}, 0)" if name in {"seq", "previous_seq"} else name for name in Entry._fields
)
NEWEST = statement(
    f"SELECT {_SENT_ENTRY} FROM arus_change",
    "WHERE id > (SELECT COALESCE(MAX(id), 0) FROM arus_change) - :limit AND outcome IS NULL",
    "ORDER BY id DESC LIMIT :limit",
)
NEWEST_OF_TOPIC = statement(
    f"SELECT {_SENT_ENTRY} FROM arus_change",
    "WHERE topic = :topic AND seq IS NOT NULL AND outcome IS NULL ORDER BY seq DESC LIMIT :limit",
)

READ = statement(
    f"SELECT {_ENTRY} FROM arus_change",
    "WHERE topic = :topic AND seq > :after AND seq <= :upto AND outcome IS NULL",
    "ORDER BY seq LIMIT :limit",
)
FIRST_UNSENT = statement(
    "SELECT id FROM arus_change WHERE topic = :topic AND seq > :after AND outcome IS NULL",
    "ORDER BY seq LIMIT 1",
)
BEGIN_CHAIN = statement("UPDATE arus_change SET previous_seq = 0 WHERE id = :id")
SETTLE = statement("UPDATE arus_change SET outcome = :outcome, reason = :reason WHERE id = :id")

#: All numbered entries of an entity above a number, whatever their outcome.
MOVED = statement(
    f"SELECT {_ENTRY} FROM arus_change",
    "WHERE topic = :topic AND seq > :after AND entity = :entity ORDER BY seq",
)
#: Entries of all entities: with a condition on the entity, SQLite would read all entries of that entity.
MOVED_UNNUMBERED = statement(
    f"SELECT {_ENTRY} FROM arus_change WHERE seq IS NULL AND outcome IS NULL ORDER BY id"
)


def rows_without_entry(key: Any, entity: str) -> Select[Any]:
    """Return the statement that finds a row without an entry in the log.

    :param key: the model's attribute with the primary key: other models may have rows in its table.
    """
    change = TABLES.change
    logged = exists().where(change.c.entity == entity, change.c.row_id == cast(key, String))
    return select(key).where(~logged).limit(1)


# -- items of catch-ups ---------------------------------------------------------------------------

# Leaves out discarded and quarantined changes, which are not for receivers, and superseded ones, which a newer
# change of the row replaces.
sent_by_catchups = "(outcome IS NULL OR (outcome = 'dropped' AND reason NOT LIKE 'discarded%'))"
_RANGE = (
    "FROM arus_change WHERE topic = :topic AND seq > :after AND seq <= :high AND entity = :entity"
    f" AND {sent_by_catchups}"
)
LOG_ITEMS = statement(f"SELECT {_ENTRY}", _RANGE, "ORDER BY seq LIMIT :limit")
#: Counts up to the requested limit only: counting a long log takes longer than starting to send it.
LOG_COUNT = statement("SELECT COUNT(*) FROM (SELECT 1", _RANGE, "LIMIT :limit) AS found")
DELETED_ITEMS = statement(
    f"SELECT {_ENTRY}", _RANGE, "AND operation = 'delete' ORDER BY seq LIMIT :limit"
)
DELETED_COUNT = statement(
    "SELECT COUNT(*) FROM (SELECT 1", _RANGE, "AND operation = 'delete' LIMIT :limit) AS found"
)
DELETED_IDS = statement("SELECT row_id", _RANGE, "AND operation = 'delete'")
REPAIR_ITEMS = statement(
    f"SELECT {_ENTRY} FROM arus_change",
    "WHERE outcome = 'dropped' AND id > :after AND reason = :claimed ORDER BY id LIMIT :limit",
)
#: The lowest number of all changes since a time: if the clock was set back, a later change can have an earlier time.
#: A message id begins with the milliseconds of its commit, which have the same number of digits until the year 2286.
SEQ_SINCE = statement(
    "SELECT MIN(seq) FROM arus_change",
    "WHERE message_id >= :since AND topic = :topic AND seq IS NOT NULL",
)

# -- repairs of what was dropped ------------------------------------------------------------------

UNREPAIRED_ENTITIES = statement(
    "SELECT DISTINCT entity, topic FROM arus_change",
    "WHERE outcome = 'dropped' AND reason = :unrepaired",
)
#: The numbers of an entity's dropped changes, and the lowest one of each topic.
DROPPED = statement(
    "SELECT seq, previous_seq FROM arus_change",
    "WHERE outcome = 'dropped' AND reason = :unrepaired AND entity = :entity AND seq IS NOT NULL",
)
DROPPED_FROM = statement(
    "SELECT topic, MIN(previous_seq) AS since FROM arus_change",
    "WHERE outcome = 'dropped' AND reason = :unrepaired GROUP BY topic",
)
#: Claims the last change of each row, which holds the row's current state. If that change was not dropped, it was or
#: will be delivered itself. Changes that a person discarded are ignored here: receivers never get them.
CLAIM = statement(
    "UPDATE arus_change SET reason = :claimed WHERE outcome = 'dropped' AND reason = :unrepaired",
    "AND entity = :entity AND NOT EXISTS (SELECT 1 FROM arus_change n",
    "WHERE n.entity = arus_change.entity AND n.row_id = arus_change.row_id",
    "AND n.id > arus_change.id AND (n.outcome IS NULL",
    "OR (n.outcome = 'dropped' AND n.reason NOT LIKE 'discarded%')))",
)
COVERED = statement(
    "UPDATE arus_change SET reason = 'queue full; a newer change tells the state'",
    "WHERE outcome = 'dropped' AND reason = :unrepaired AND entity = :entity",
)
REPAIRED = statement(
    "UPDATE arus_change SET reason = 'queue full; repaired by catch-up'",
    "WHERE outcome = 'dropped' AND reason = :claimed",
)
