"""The fleet as people ashore see it: each vessel with what is kept of it, without reading a table of rows."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from sqlalchemy import TextClause

from arus.outbox.sql.build import columns, statement

from .build import TABLES

_SHOWN = (
    "vessel_id", "epoch", "seq", "head_seq", "online", "online_since", "heard_at", "spoke_at", "changed_at",
    "behind_since", "audited_at", "equal_at", "ahead_of",
)  # fmt: skip
_REFUSED = "FROM arus_refused r WHERE r.vessel_id = v.vessel_id"
_HELD = "FROM arus_held h WHERE h.vessel_id = v.vessel_id"
_DIFFERENCES = "FROM arus_compared c WHERE c.vessel_id = v.vessel_id AND c.difference IS NOT NULL"
_SELECT = (
    f"SELECT {columns(TABLES.vessel, *_SHOWN, alias='v')}, (SELECT count(*) {_REFUSED}) AS refused,"
    f" (SELECT count(*) {_HELD}) AS held, EXISTS (SELECT 1 {_DIFFERENCES}) AS fields_differ"
)
_BEHIND = "CASE WHEN v.head_seq > v.seq THEN v.head_seq - v.seq ELSE 0 END"
_LAST_HEARD = "COALESCE(v.spoke_at, 0)"
_IS_ONLINE = "COALESCE(v.online, false)"
_IS_EQUAL = "COALESCE(v.equal_at = v.audited_at, false)"
#: Conditions by the name of a filter. Each looks at the vessel alone, or finds its rows by their key.
_CONDITIONS = {
    "online": _IS_ONLINE,
    "equal": _IS_EQUAL,
    "audited": "v.audited_at IS NOT NULL",
    "behind": "v.head_seq > v.seq",
    "refused": f"EXISTS (SELECT 1 {_REFUSED})",
    "held": f"EXISTS (SELECT 1 {_HELD})",
    "fields_differ": f"EXISTS (SELECT 1 {_DIFFERENCES})",
}
#: What a list is sorted by, before the id, and the comparison with which the next page begins.
_ORDERS = {"last_heard": (_LAST_HEARD, ">"), "behind": (_BEHIND, "<")}


@cache
def page(
    filters: Collection[tuple[str, bool]], order: str, *, searched: bool, later: bool
) -> TextClause:
    """Return the query of a page of vessels; its parameters are `limit` and, if they are used, `q`, `key`, `after`.

    :param filters: names of `arus.follower.fleet_query.FILTERS`, each with whether it must hold.
    :param order: `vessel_id`, `last_heard` (the longest silent first) or `behind` (the most first).
    :param searched: only ids that contain `q`.
    :param later: only vessels after the one with the sort key `key` and the id `after`.
    """
    key, then = _ORDERS.get(order, ("", ""))
    where = [
        _CONDITIONS[name] if holds else f"NOT ({_CONDITIONS[name]})" for name, holds in filters
    ]
    if searched:
        where.append("LOWER(v.vessel_id) LIKE :q ESCAPE '!'")
    if later:
        after = "v.vessel_id > :after"
        where.append(f"({key} {then} :key OR ({key} = :key AND {after}))" if key else after)
    sorting = f"sort_key {'DESC' if then == '<' else 'ASC'}, " if key else ""
    return statement(
        f"{_SELECT}{f', {key} AS sort_key' if key else ''} FROM arus_vessel v",
        f"WHERE {' AND '.join(where)}" if where else "",
        f"ORDER BY {sorting}v.vessel_id LIMIT :limit",
    )


VESSEL = statement(_SELECT, "FROM arus_vessel v WHERE v.vessel_id = :vessel_id")
ANY_VESSEL = statement("SELECT 1 FROM arus_vessel LIMIT 1")
SUMMARY = statement(
    "SELECT count(*) AS vessels,",
    f"COALESCE(sum(CASE WHEN {_IS_ONLINE} THEN 1 ELSE 0 END), 0) AS online,",
    "COALESCE(sum(CASE WHEN v.head_seq > v.seq THEN 1 ELSE 0 END), 0) AS behind,",
    f"COALESCE(sum({_BEHIND}), 0) AS behind_changes,",
    f"COALESCE(sum(CASE WHEN {_IS_EQUAL} THEN 1 ELSE 0 END), 0) AS equal,",
    "count(v.audited_at) AS audited, count(v.equal_at) AS ever_equal,",
    "min(v.behind_since) AS behind_since, min(v.equal_at) AS oldest_equal_at",
    "FROM arus_vessel v",
)
REFUSED = statement(
    "SELECT count(*) AS total, count(DISTINCT vessel_id) AS vessels FROM arus_refused"
)
HELD = statement("SELECT count(*) AS total, count(DISTINCT vessel_id) AS vessels FROM arus_held")
DIFFERENCES = statement(
    "SELECT count(DISTINCT vessel_id) FROM arus_compared WHERE difference IS NOT NULL"
)

# -- one vessel -----------------------------------------------------------------------------------

AUDIT = statement("SELECT audit FROM arus_vessel WHERE vessel_id = :vessel_id")
POSITIONS = statement(
    f"SELECT {columns(TABLES.position, without=('proven_seq', 'buckets', 'mark'))}",
    "FROM arus_position WHERE vessel_id = :vessel_id ORDER BY topic",
)
COMPARED = statement(
    "SELECT entity, difference FROM arus_compared",
    "WHERE vessel_id = :vessel_id AND difference IS NOT NULL ORDER BY entity",
)
EVENTS = statement(
    f"SELECT {columns(TABLES.vessel_event, without=('vessel_id',))} FROM arus_vessel_event",
    "WHERE vessel_id = :vessel_id ORDER BY id DESC LIMIT :limit",
)
REFUSED_ROWS = statement(
    "SELECT entity, row_id, version, reason, refused_at FROM arus_refused",
    "WHERE vessel_id = :vessel_id ORDER BY entity, row_key LIMIT :limit",
)
HELD_CHANGES = statement(
    "SELECT entity, row_id, version, operation, reason, held_at FROM arus_held",
    "WHERE vessel_id = :vessel_id ORDER BY entity, row_id LIMIT :limit",
)
#: A vessel's own rows, by id.
ROW_IDS = statement(
    "SELECT row_id FROM arus_row WHERE vessel_id = :vessel_id AND entity = :entity",
    "AND NOT deleted AND owner = '' AND version >= 0 AND row_id > :after ORDER BY row_id LIMIT :limit",
)
#: The vessels that rows belong to.
OWNERS = statement(
    "SELECT row_id, vessel_id FROM arus_row WHERE entity = :entity AND row_id IN :row_ids",
    "AND NOT deleted AND owner = '' AND version >= 0",
    lists=("row_ids",),
)
