"""A ship's record over some days: outages, changes, repairs, followers' audits, and the data sent.

It is read from what the owner has noted (`arus.outbox.history`, `arus.outbox.usage`), in memory that depends on the days alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from arus.outbox import sql
from arus.outbox.counters import DROPPED, FAILURES, PUBLISHED, QUEUED, SUPERSEDED
from arus.outbox.followers import FollowerStatus, read_followers
from arus.outbox.usage import DataBudget
from arus.protocol.times import iso, iso_or_none, now_ms

from .overview import LinkEvent, Outage, outages

#: Most outages of a record that are listed one by one: the longest ones.
MOST_OUTAGES = 500


class DayRecord(Struct, frozen=True):
    """One day, in the ship's zone."""

    #: ISO 8601.
    day: str
    #: Changes that the broker acknowledged.
    delivered: int = 0
    #: Changes that found no connection when they were committed.
    delayed: int = 0
    dropped: int = 0
    superseded: int = 0
    #: Changes that could not be sent.
    quarantined: int = 0
    #: Bytes by kind.
    sent: Mapping[str, int] | None = None

    @property
    def bytes(self) -> int:
        """All bytes sent."""
        return sum((self.sent or {}).values())


class Repairs(Struct, frozen=True):
    """Catch-ups that have ended, by whom they were asked for."""

    #: `repair` (after dropped changes, by itself), `mqtt` (followers), `http` or `cli` (people and programs).
    origin: str
    catchups: int
    rows: int


class Record(Struct, frozen=True):
    """A ship's record."""

    vessel_id: str
    #: Milliseconds since the epoch.
    begin: int
    end: int
    #: The first moment at which the state of the link is known.
    link_known_from: int
    #: In order; of many, the longest.
    outages: Sequence[Outage]
    outage_count: int
    days: Sequence[DayRecord]
    #: The first day that was counted; None if none was.
    counted_from: str | None
    repairs: Sequence[Repairs]
    followers: Sequence[FollowerStatus]
    #: What waits now.
    waiting: int

    def total(self, field: str) -> int:
        """The sum of a field of the days."""
        return sum(getattr(day, field) for day in self.days)

    @property
    def without_link(self) -> float:
        """Seconds without a link, those of outages that are not listed left out."""
        return sum((one.end or self.end) - one.begin for one in self.outages) / 1000

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "vesselId": self.vessel_id,
            "since": iso(self.begin),
            "until": iso(self.end),
            "linkKnownFrom": iso(self.link_known_from),
            "countedFrom": self.counted_from,
            "outages": [
                {
                    "begin": iso(one.begin),
                    "end": iso_or_none(one.end),
                    "seconds": ((one.end or self.end) - one.begin) // 1000,
                    "reason": one.reason,
                }
                for one in self.outages
            ],
            "outageCount": self.outage_count,
            "delivered": self.total("delivered"),
            "delayed": self.total("delayed"),
            "dropped": self.total("dropped"),
            "superseded": self.total("superseded"),
            "quarantined": self.total("quarantined"),
            "bytesSent": self.total("bytes"),
            "waiting": self.waiting,
            "repairs": [
                {"origin": one.origin, "catchups": one.catchups, "rows": one.rows}
                for one in self.repairs
            ],
            "followers": [one.document() for one in self.followers],
            "days": [
                {
                    "day": one.day,
                    "delivered": one.delivered,
                    "delayed": one.delayed,
                    "dropped": one.dropped,
                    "superseded": one.superseded,
                    "quarantined": one.quarantined,
                    "bytesSent": one.bytes,
                    "bytesByKind": dict(sorted((one.sent or {}).items())),
                }
                for one in self.days
            ],
        }


def read_record(connection: Connection, days: DataBudget, begin: int, end: int) -> Record:
    """Return the record of a time; it writes nothing.

    :param days: in which zone a day begins.
    :param begin: milliseconds since the epoch; days are counted whole.
    """
    session = connection.execute(sql.session.HEAD).one_or_none()
    found, known_from = _outages(connection, begin, end)
    longest = sorted(found, key=lambda one: one.begin - (one.end or end))[:MOST_OUTAGES]
    return Record(
        vessel_id=session.vessel_id if session else "",
        begin=begin,
        end=end,
        link_known_from=known_from,
        outages=sorted(longest, key=lambda one: one.begin),
        outage_count=len(found),
        days=_days(connection, days, begin, end),
        counted_from=connection.execute(sql.usage.FIRST_COUNTED).scalar(),
        repairs=[
            Repairs(row.origin, int(row.catchups), int(row.rows))
            for row in connection.execute(sql.catchups.ENDED, {"begin": begin, "end": end})
        ],
        followers=read_followers(connection),
        waiting=sum(row.depth for row in connection.execute(sql.topic_queues.DEPTHS)),
    )


def _outages(connection: Connection, begin: int, end: int) -> tuple[list[Outage], int]:
    """Return the outages of a time, cut to it, and since when the state of the link is known."""
    last = connection.execute(sql.history.EVENT_BEFORE, {"after": begin}).one_or_none()
    timeline = [] if last is None else [LinkEvent(begin, bool(last.connected), last.reason)]
    timeline += [
        LinkEvent(row.at, bool(row.connected), row.reason)
        for row in connection.execute(sql.history.EVENTS, {"after": begin})
        if row.at <= end
    ]
    return outages(timeline), timeline[0].at if timeline else end


def _days(connection: Connection, days: DataBudget, begin: int, end: int) -> list[DayRecord]:
    first, last = days.day(begin), days.day(end)
    counted = _counted(connection, first, last, days.day(now_ms()))
    sent: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(sql.usage.OF_DAYS, {"first": first, "last": last}):
        sent[row.day][row.kind] = int(row.sent)
    return [
        DayRecord(
            day,
            delivered=counted[PUBLISHED, day],
            delayed=counted[QUEUED, day],
            dropped=counted[DROPPED, day],
            superseded=counted[SUPERSEDED, day],
            quarantined=counted[FAILURES, day],
            sent=sent.get(day, {}),
        )
        for day in _every_day(first, last)
    ]


def _counted(
    connection: Connection, first: str, last: str, today: str
) -> defaultdict[tuple[str, str], int]:
    """Return by how much each counter grew on each day.

    A counter that a day has no value of was 0 until then: all are noted together, from the first time they count.
    """
    noted = [
        (row.name, row.day, int(row.value))
        for row in connection.execute(sql.usage.DAY_COUNTS, {"first": first, "last": last})
        if row.day != today
    ]
    if first <= today <= last:  # the counters themselves know more than the last note
        now = connection.execute(sql.usage.NOW)
        noted += [(row.name, today, int(row.value)) for row in now]
    grown: defaultdict[tuple[str, str], int] = defaultdict(int)
    before: dict[str, int] = {}
    for name, day, value in sorted(noted):
        if day >= first:
            grown[name, day] = value - before.get(name, 0)
        before[name] = value
    return grown


def _every_day(first: str, last: str) -> list[str]:
    begin, count = date.fromisoformat(first), date.fromisoformat(last).toordinal()
    return [
        (begin + timedelta(days=number)).isoformat()
        for number in range(count - begin.toordinal() + 1)
    ]
