"""Queries of the log for people: pages of changes, single changes, decisions on them, counts."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import TextClause

from arus.protocol.entries import ChangeState

from .build import TABLES, columns, statement

_WITHOUT_DATA = columns(TABLES.change, without=("data",), alias="c")
_CHANGE = columns(TABLES.change, alias="c")
_WATERMARKS = columns(TABLES.topic_queue, "sent_seq", "acked_seq", alias="l")

ONE = statement(
    f"SELECT {_CHANGE}, {_WATERMARKS}",
    "FROM arus_change c LEFT JOIN arus_lane l ON l.topic = c.topic WHERE c.message_id = :message_id",
)
OF_ROW = statement(
    f"SELECT {_CHANGE}, {_WATERMARKS}",
    "FROM arus_change c LEFT JOIN arus_lane l ON l.topic = c.topic",
    "WHERE c.entity = :entity AND c.row_id = :row_id ORDER BY c.id DESC LIMIT :limit",
)
#: Changes nothing, but locks the entry on PostgreSQL and the database on SQLite: if two people decide at the
#: same time, the second one gets an error.
HOLD = statement(
    "UPDATE arus_change SET outcome = outcome",
    "WHERE message_id = :message_id AND outcome = 'quarantined'",
)
RETRY = statement(
    "UPDATE arus_change SET outcome = NULL, reason = NULL, seq = NULL, previous_seq = NULL,",
    "operation = :operation, version = :version, data = :data WHERE id = :id",
)
DISCARD = statement("UPDATE arus_change SET outcome = 'dropped', reason = :reason WHERE id = :id")
#: The newest changes, to be repeated in a drill.
SAMPLE = statement(
    "SELECT entity, topic, qos, operation, row_id, version, committed_at, data, actor FROM arus_change",
    "WHERE id > 0 ORDER BY id DESC LIMIT :limit",
)
#: The last change of each row.
LAST_CHANGES = statement(
    f"SELECT c.row_id, c.seq, c.outcome, {_WATERMARKS}",
    "FROM arus_change c LEFT JOIN arus_lane l ON l.topic = c.topic",
    "WHERE c.id IN (SELECT MAX(id) FROM arus_change WHERE entity = :entity AND row_id IN :row_ids",
    "GROUP BY row_id)",
    lists=("row_ids",),
)

# -- pages ----------------------------------------------------------------------------------------

_PAGE = (
    "SELECT {columns}, {watermarks} FROM ({branches}) f JOIN arus_change c ON c.id = f.id"
    " LEFT JOIN arus_lane l ON l.topic = c.topic ORDER BY c.id{descending} LIMIT :limit"
)
_BRANCH = (
    "SELECT * FROM (SELECT c.id FROM {source} AND c.id {beyond} :cursor{entity}"
    " ORDER BY c.id{descending} LIMIT :limit) {alias}"
)
_ANY = "arus_change c WHERE c.id > 0"
_ENTITY_BY_INDEX = " AND c.entity = :entity"
# Prevents the use of the entity's index, which would read every change of the entity in the log.
_ENTITY = " AND c.entity || '' = :entity"
# CROSS JOIN makes SQLite join the tables in this order. A topic's undelivered changes are a range of its
# index, no longer than the queue; the delivered changes are nearly the whole log.
_UNSETTLED = "arus_lane l CROSS JOIN arus_change c WHERE c.topic = l.topic AND c.outcome IS NULL"
_DELIVERED = (
    "arus_change c CROSS JOIN arus_lane l WHERE l.topic = c.topic AND c.outcome IS NULL"
    " AND c.seq <= l.acked_seq"
)
_SOURCES: dict[ChangeState, tuple[str, ...]] = {
    ChangeState.PENDING: (
        "arus_change c WHERE c.seq IS NULL AND c.outcome IS NULL",
        f"{_UNSETTLED} AND c.seq > l.sent_seq",
    ),
    ChangeState.IN_FLIGHT: (f"{_UNSETTLED} AND c.seq > l.acked_seq AND c.seq <= l.sent_seq",),
    ChangeState.DELIVERED: (_DELIVERED,),
    ChangeState.QUARANTINED: ("arus_change c WHERE c.outcome = 'quarantined'",),
    ChangeState.SUPERSEDED: ("arus_change c WHERE c.outcome = 'superseded'",),
    ChangeState.DROPPED: ("arus_change c WHERE c.outcome = 'dropped'",),
}


def page(
    states: Collection[ChangeState], *, of_entity: bool, oldest_first: bool, with_data: bool
) -> TextClause:
    """Return the statement that reads a page: it merges one page for each state, each read by that state's index.

    :param states: only changes in one of these; all when empty.
    """
    wanted = frozenset(states)
    sources = (
        [_ANY]
        if wanted in (frozenset(), frozenset(ChangeState))
        else [source for state in ChangeState if state in wanted for source in _SOURCES[state]]
    )
    descending = "" if oldest_first else " DESC"
    branches = [
        _BRANCH.format(
            source=source,
            beyond=">" if oldest_first else "<",
            entity=(_ENTITY_BY_INDEX if source is _ANY else _ENTITY) if of_entity else "",
            descending=descending,
            alias=f"b{number}",
        )
        for number, source in enumerate(sources)
    ]
    return statement(
        _PAGE.format(
            columns=_CHANGE if with_data else _WITHOUT_DATA,
            watermarks=_WATERMARKS,
            branches=" UNION ALL ".join(branches),
            descending=descending,
        )
    )


# -- counts and times -----------------------------------------------------------------------------

#: When the oldest change above a number was committed. One index lookup for each topic.
OLDEST_ABOVE = statement(
    "SELECT MIN((SELECT c.committed_at FROM arus_change c WHERE c.topic = l.topic AND c.seq > :seq",
    "AND c.outcome IS NULL ORDER BY c.seq LIMIT 1)) FROM arus_lane l",
)
OLDEST_DELIVERED = statement(
    "SELECT committed_at FROM arus_change c JOIN arus_lane l ON l.topic = c.topic",
    "WHERE c.outcome IS NULL AND c.seq <= l.acked_seq ORDER BY c.id LIMIT 1",
)
COMMITTED_AFTER = statement(
    "SELECT COUNT(*), MAX(committed_at) FROM arus_change WHERE committed_at > :now"
)
ENTRIES = statement("SELECT COUNT(*) FROM arus_change")
#: Whether the log has more than so many entries.
SIZE = statement("SELECT COUNT(*) FROM (SELECT 1 FROM arus_change LIMIT :most) AS found")
#: For a log that is not long. A single statement, so that the counts are consistent. Changes with an outcome are counted in their own small
#: index, changes without one as a range of their topic's index: neither reads the rows of a long log.
COUNTS = statement(
    "SELECT (SELECT COUNT(*) FROM arus_change) AS total,",
    "(SELECT COUNT(*) FROM arus_change WHERE seq IS NULL AND outcome IS NULL) AS unnumbered,",
    "(SELECT COUNT(*) FROM arus_lane l CROSS JOIN arus_change c",
    " WHERE c.topic = l.topic AND c.seq > l.sent_seq) AS unsent,",
    "(SELECT COUNT(*) FROM arus_lane l CROSS JOIN arus_change c",
    " WHERE c.topic = l.topic AND c.seq > l.acked_seq AND c.seq <= l.sent_seq) AS sent,",
    "(SELECT COUNT(*) FROM arus_change c JOIN arus_lane l ON l.topic = c.topic",
    " WHERE c.outcome IS NOT NULL AND c.seq > l.sent_seq) AS unsent_settled,",
    "(SELECT COUNT(*) FROM arus_change c JOIN arus_lane l ON l.topic = c.topic",
    " WHERE c.outcome IS NOT NULL AND c.seq > l.acked_seq AND c.seq <= l.sent_seq) AS sent_settled,",
    "(SELECT COUNT(*) FROM arus_change WHERE outcome IS NOT NULL AND seq IS NULL) AS numberless,",
    "(SELECT COUNT(*) FROM arus_change WHERE outcome = 'quarantined') AS quarantined,",
    "(SELECT COUNT(*) FROM arus_change WHERE outcome = 'superseded') AS superseded,",
    "(SELECT COUNT(*) FROM arus_change WHERE outcome = 'dropped') AS dropped,",
    "(SELECT head_seq FROM arus_session WHERE id = 1) AS head_seq,",
    "(SELECT complete_since FROM arus_session WHERE id = 1) AS complete_since",
)
#: For a long log: each count ends at `most`. The owner keeps the number of undelivered ones, and bounds those in flight.
_AT_MOST = "(SELECT COUNT(*) FROM (SELECT 1 FROM {} LIMIT :most) AS found) AS {},"
COUNTS_AT_MOST = statement(
    "SELECT (SELECT COALESCE(SUM(depth), 0) FROM arus_lane) AS numbered,",
    _AT_MOST.format("arus_change WHERE seq IS NULL AND outcome IS NULL", "unnumbered"),
    "(SELECT COUNT(*) FROM arus_lane l CROSS JOIN arus_change c WHERE c.topic = l.topic",
    " AND c.seq > l.acked_seq AND c.seq <= l.sent_seq AND c.outcome IS NULL) AS in_flight,",
    "(SELECT COUNT(*) FROM (SELECT c.outcome FROM arus_lane l CROSS JOIN arus_change c",
    " WHERE c.topic = l.topic AND c.seq <= l.acked_seq LIMIT :most) AS found",
    " WHERE found.outcome IS NULL) AS delivered,",
    *(
        _AT_MOST.format(f"arus_change WHERE outcome = '{outcome}'", outcome)
        for outcome in ("quarantined", "superseded", "dropped")
    ),
    "(SELECT complete_since FROM arus_session WHERE id = 1) AS complete_since",
)
