"""What the sync page shows beyond the status: counts of all changes, the last day, conflicts and parked
messages. Each function reads the database with one connection and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, text

from .forecast import DAY, Sample
from .message import ChangeState

_LAST_ID = 2**63 - 1

# One statement, so that the counts are of one moment. What has an outcome is looked up in its own small
# index; what has none is a range of its topic's: neither reads the rows of a long log.
_COUNTS = text(
    "SELECT (SELECT COUNT(*) FROM arus_change) AS total,"
    " (SELECT COUNT(*) FROM arus_change WHERE seq IS NULL AND outcome IS NULL) AS unnumbered,"
    " (SELECT COUNT(*) FROM arus_lane l CROSS JOIN arus_change c"
    "  WHERE c.topic = l.topic AND c.seq > l.sent_seq) AS unsent,"
    " (SELECT COUNT(*) FROM arus_lane l CROSS JOIN arus_change c"
    "  WHERE c.topic = l.topic AND c.seq > l.acked_seq AND c.seq <= l.sent_seq) AS sent,"
    " (SELECT COUNT(*) FROM arus_change c JOIN arus_lane l ON l.topic = c.topic"
    "  WHERE c.outcome IS NOT NULL AND c.seq > l.sent_seq) AS unsent_settled,"
    " (SELECT COUNT(*) FROM arus_change c JOIN arus_lane l ON l.topic = c.topic"
    "  WHERE c.outcome IS NOT NULL AND c.seq > l.acked_seq AND c.seq <= l.sent_seq) AS sent_settled,"
    " (SELECT COUNT(*) FROM arus_change WHERE outcome IS NOT NULL AND seq IS NULL) AS numberless,"
    " (SELECT COUNT(*) FROM arus_change WHERE outcome = 'quarantined') AS quarantined,"
    " (SELECT COUNT(*) FROM arus_change WHERE outcome = 'superseded') AS superseded,"
    " (SELECT COUNT(*) FROM arus_change WHERE outcome = 'dropped') AS dropped,"
    " (SELECT head_seq FROM arus_session WHERE id = 1) AS head_seq,"
    " (SELECT complete_since FROM arus_session WHERE id = 1) AS complete_since"
)
_SAMPLES = text(
    "SELECT minute, depth, published FROM arus_sample WHERE minute > :after ORDER BY minute"
)
_SAMPLE_BEFORE = text(
    "SELECT minute, depth, published FROM arus_sample WHERE minute <= :after"
    " ORDER BY minute DESC LIMIT 1"
)
_FIRST_SAMPLE = text("SELECT MIN(minute) FROM arus_sample")
_EVENTS = text(
    "SELECT at, connected, reason FROM arus_link_event WHERE at > :after ORDER BY at, id"
)
_EVENT_BEFORE = text(
    "SELECT at, connected, reason FROM arus_link_event WHERE at <= :after"
    " ORDER BY at DESC, id DESC LIMIT 1"
)
_CONFLICTS = text(
    "SELECT id, conflict_id, entity, row_id, winner, rule, at, report FROM arus_conflict"
    " WHERE id < :before ORDER BY id DESC LIMIT :limit"
)
_CONFLICT = text(
    "SELECT id, conflict_id, entity, row_id, winner, rule, at, report FROM arus_conflict"
    " WHERE conflict_id = :conflict_id"
)
_PARKED_COUNT = text("SELECT COUNT(*) FROM arus_parked")
_CONFLICT_COUNT = text("SELECT COUNT(*) FROM arus_conflict")


@dataclass(frozen=True, slots=True)
class Counts:
    """How many changes of the log are in each state; together they are all that there are."""

    by_state: Mapping[ChangeState, int]
    total: int
    #: Numbers that were given and are not in the log any more: delivered and pruned when their time had
    #: come, and those of retried changes, which got a new one.
    gone: int
    #: The log is complete from here on, in milliseconds since the epoch; None before the first owner.
    complete_since: int | None


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """The link came or went."""

    at: int
    connected: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class Outage:
    """A time without a link."""

    begin: int
    #: None while it lasts.
    end: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Day:
    """The last 24 hours."""

    begin: int
    end: int
    #: In order; the first may be of before, and then tells what waited when the day began.
    samples: Sequence[Sample]
    #: Since when samples have been taken.
    observed_from: int
    #: In order; only their parts within the day.
    outages: Sequence[Outage]
    #: The first moment at which the state of the link is known; the day's end when it never was.
    link_known_from: int


@dataclass(frozen=True, slots=True)
class ConflictRecord:
    """A proposal met another version of its row, and this is what was decided."""

    id: int
    conflict_id: str
    entity: str
    row_id: str
    winner: str
    rule: str
    at: int
    report: dict[str, Any]


def read_counts(connection: Connection) -> Counts:
    """Count the changes of the log, all of one moment."""
    row = connection.execute(_COUNTS).one()
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
    # 0 is from the beginning; below that no owner has looked yet.
    since = row.complete_since if (row.complete_since or 0) > 0 else None
    return Counts(by_state, row.total, gone, since)


def read_samples(connection: Connection, after: int) -> list[Sample]:
    """Return the samples of minutes after `after`, in order."""
    return [Sample(*row) for row in connection.execute(_SAMPLES, {"after": after})]


def read_day(connection: Connection, *, now: int, complete_since: int | None) -> Day:
    """Return the last 24 hours.

    :param complete_since: since when the log knows everything.
    """
    begin = now - DAY
    before = connection.execute(_SAMPLE_BEFORE, {"after": begin}).one_or_none()
    samples = read_samples(connection, begin)
    if before is not None:
        samples.insert(0, Sample(*before))
    known = [at for at in (connection.execute(_FIRST_SAMPLE).scalar(), complete_since) if at]
    last = connection.execute(_EVENT_BEFORE, {"after": begin}).one_or_none()
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
    """Return the times without a link that `events`, in order, tell of."""
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
    rows = connection.execute(_CONFLICTS, {"before": before or _LAST_ID, "limit": limit})
    return [_conflict(row) for row in rows]


def find_conflict(connection: Connection, conflict_id: str) -> ConflictRecord | None:
    """Return a conflict."""
    if not (conflict_id.isascii() and conflict_id.isprintable()):
        return None
    row = connection.execute(_CONFLICT, {"conflict_id": conflict_id}).one_or_none()
    return None if row is None else _conflict(row)


def count_conflicts(connection: Connection) -> int:
    """Return how many conflicts are on record."""
    return int(connection.execute(_CONFLICT_COUNT).scalar_one())


def count_parked(connection: Connection) -> int:
    """Return how many messages are parked."""
    return int(connection.execute(_PARKED_COUNT).scalar_one())


def _events(connection: Connection, after: int) -> Sequence[Row[Any]]:
    return connection.execute(_EVENTS, {"after": after}).all()


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
