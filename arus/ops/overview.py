"""What the sync page shows in addition to the status: counts of all changes, the last day, conflicts, dead letters.

Each function reads the database on the given connection and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct
from sqlalchemy import Connection, Row

from arus.outbox import sql
from arus.protocol.entries import ChangeState

from .forecast import DAY, Sample

#: Changes up to which they are counted: a page that counted a log of a million would take a second.
MOST = 10_000
_LAST_ID = 2**63 - 1


class Counts(Struct, frozen=True):
    """The number of changes in each state; together these are all changes of the log, unless it is long."""

    by_state: Mapping[ChangeState, int]
    total: int
    #: Numbers that were assigned and are no longer in the log: those of changes that were delivered and later
    #: pruned, and the old numbers of retried changes, which got new ones. None if the log is too long to count.
    gone: int | None
    #: The log is complete from this time on, in milliseconds since the epoch; None before the first owner.
    complete_since: int | None
    #: The log is longer than what is counted: there are more changes than `total`, and in these states.
    is_long: bool = False
    more_in: Collection[ChangeState] = ()


class LinkEvent(Struct, frozen=True):
    """The link went up or down."""

    at: int
    connected: bool
    reason: str | None


class Outage(Struct, frozen=True):
    """A time without a link."""

    begin: int
    #: None while it lasts.
    end: int | None
    reason: str | None


class Day(Struct, frozen=True):
    """The last 24 hours."""

    begin: int
    end: int
    #: In order; the first may be from before the day, and then shows the depth at its beginning.
    samples: Sequence[Sample]
    #: Since when samples have been taken.
    observed_from: int
    #: In order, cut to the day.
    outages: Sequence[Outage]
    #: The first moment at which the state of the link is known; the day's end if it never was.
    link_known_from: int


class ConflictRecord(Struct, frozen=True):
    """A conflict and its decision."""

    id: int
    conflict_id: str
    entity: str
    row_id: str
    winner: str
    rule: str
    at: int
    report: dict[str, Any]


def read_counts(connection: Connection, most: int = MOST) -> Counts:
    """Count the changes of the log: of a log with up to `most` all, of a longer one up to so many in each state."""
    if connection.execute(sql.changes.SIZE, {"most": most + 1}).scalar_one() > most:
        return _read_at_most(connection, most)
    row = connection.execute(sql.changes.COUNTS).one()
    pending = row.unnumbered + row.unsent - row.unsent_settled
    in_flight = row.sent - row.sent_settled
    otherwise = row.quarantined + row.superseded + row.dropped
    by_state = {
        ChangeState.PENDING: pending,
        ChangeState.IN_FLIGHT: in_flight,
        ChangeState.DELIVERED: row.total - pending - in_flight - otherwise,
        ChangeState.QUARANTINED: row.quarantined,
        ChangeState.SUPERSEDED: row.superseded,
        ChangeState.DROPPED: row.dropped,
    }
    numbered = row.total - row.unnumbered - row.numberless
    gone = max(0, (row.head_seq or 0) - numbered)
    return Counts(by_state, row.total, gone, _complete_since(row))


def _read_at_most(connection: Connection, most: int) -> Counts:
    row = connection.execute(sql.changes.COUNTS_AT_MOST, {"most": most}).one()
    by_state = {
        ChangeState.PENDING: max(0, row.numbered + row.unnumbered - row.in_flight),
        ChangeState.IN_FLIGHT: row.in_flight,
        ChangeState.DELIVERED: row.delivered,
        ChangeState.QUARANTINED: row.quarantined,
        ChangeState.SUPERSEDED: row.superseded,
        ChangeState.DROPPED: row.dropped,
    }
    unsent = (ChangeState.QUARANTINED, ChangeState.SUPERSEDED, ChangeState.DROPPED)
    more_in = {state for state in unsent if by_state[state] == most}
    if row.unnumbered == most:
        more_in.add(ChangeState.PENDING)
    # Unsent changes among those that were looked at hide delivered ones behind them.
    if row.delivered + sum(by_state[state] for state in unsent) >= most:
        more_in.add(ChangeState.DELIVERED)
    return Counts(by_state, most, None, _complete_since(row), is_long=True, more_in=more_in)


def _complete_since(row: Row[Any]) -> int | None:
    # 0 means since the beginning; a negative number, that no owner has determined it yet.
    return row.complete_since if (row.complete_since or 0) > 0 else None


def read_samples(connection: Connection, after: int) -> list[Sample]:
    """Return the samples of minutes after `after`, in order."""
    return [Sample(*row) for row in connection.execute(sql.history.SAMPLES, {"after": after})]


def read_day(connection: Connection, *, now: int, complete_since: int | None) -> Day:
    """Return the last 24 hours.

    :param complete_since: since when the log is complete, in milliseconds since the epoch.
    """
    begin = now - DAY
    before = connection.execute(sql.history.SAMPLE_BEFORE, {"after": begin}).one_or_none()
    samples = read_samples(connection, begin)
    if before is not None:
        samples.insert(0, Sample(*before))
    known = [
        at for at in (connection.execute(sql.history.FIRST_SAMPLE).scalar(), complete_since) if at
    ]
    last = connection.execute(sql.history.EVENT_BEFORE, {"after": begin}).one_or_none()
    events = [
        LinkEvent(row.at, bool(row.connected), row.reason) for row in _events(connection, begin)
    ]
    state_before = None if last is None else LinkEvent(begin, bool(last.connected), last.reason)
    timeline = [*([state_before] if state_before else []), *events]
    return Day(
        begin=begin,
        end=now,
        samples=samples,
        observed_from=min(known, default=now),
        outages=outages(timeline),
        link_known_from=timeline[0].at if timeline else now,
    )


def outages(events: Sequence[LinkEvent]) -> list[Outage]:
    """Return the outages in `events`, which are in order."""
    found: list[Outage] = []
    down: LinkEvent | None = None
    for event in events:
        if not event.connected:
            down = down or event
        elif down is not None:
            found.append(Outage(down.at, event.at, down.reason))
            down = None
    if down is not None:
        found.append(Outage(down.at, None, down.reason))
    return found


def read_conflicts(
    connection: Connection, *, limit: int, before: int | None = None
) -> list[ConflictRecord]:
    """Return conflicts, newest first.

    :param before: only those with a lower id.
    """
    rows = connection.execute(sql.inbound.CONFLICTS, {"before": before or _LAST_ID, "limit": limit})
    return [_conflict(row) for row in rows]


def find_conflict(connection: Connection, conflict_id: str) -> ConflictRecord | None:
    """Return a conflict, or None if there is no such one."""
    if not (conflict_id.isascii() and conflict_id.isprintable()):
        return None
    row = connection.execute(sql.inbound.CONFLICT, {"conflict_id": conflict_id}).one_or_none()
    return None if row is None else _conflict(row)


def count_conflicts(connection: Connection) -> int:
    """Return how many conflicts are on record."""
    return int(connection.execute(sql.inbound.COUNT_CONFLICTS).scalar_one())


def count_parked(connection: Connection) -> int:
    """Return how many dead letters there are."""
    return int(connection.execute(sql.inbound.COUNT_DEAD_LETTERS).scalar_one())


def _events(connection: Connection, after: int) -> Sequence[Row[Any]]:
    return connection.execute(sql.history.EVENTS, {"after": after}).all()


def _conflict(row: Row[Any]) -> ConflictRecord:
    return ConflictRecord(
        row.id,
        row.conflict_id,
        row.entity,
        row.row_id,
        row.winner,
        row.rule,
        row.at,
        orjson.loads(bytes(row.report)),
    )
