"""What the sync has sent on each day, in bytes by kind, and the data budget (`MQTT_DATA_BUDGET`).

A day is one of the ship's zone. The owner counts in its own transactions, so that the count is the same in every
process and goes on after a restart or a takeover. What is about to leave is counted before it leaves, and corrected
afterwards: an owner that is killed has counted too much rather than too little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct, field
from sqlalchemy import Connection

from arus.protocol.times import iso, iso_or_none

from . import sql
from .counters import BYTES_SENT, add_to_counters

#: Days for which the usage is kept.
KEEP = 92
#: One part in so many of the budget is reserved for urgent topics and for what keeps the connection.
_RESERVE = 10
#: Catch-ups and digests get at most one part in so many of the rest in a day: the others are for changes.
_CATCHUPS = 2


class DataBudget(Struct, frozen=True):
    """The bytes that may be sent in a day, and how they are divided."""

    #: Bytes a day; None for no limit.
    limit: int | None = None
    #: The name of the ship's time zone; None for the machine's.
    zone: str | None = None
    #: Topics whose changes are sent when the budget is spent.
    urgent: frozenset[str] = frozenset()

    @property
    def reserve(self) -> int:
        """Bytes for urgent topics and for what keeps the connection."""
        return (self.limit or 0) // _RESERVE

    @property
    def ordinary(self) -> int:
        """Bytes after which only urgent changes are sent."""
        return (self.limit or 0) - self.reserve

    @property
    def catchups(self) -> int:
        """Bytes of catch-ups and digests after which these wait for the next day."""
        return self.ordinary // _CATCHUPS

    def day(self, now: int) -> str:
        """Return the day in the ship's zone, in ISO 8601.

        :param now: milliseconds since the epoch.
        """
        return self._date(now).isoformat()

    def day_before(self, now: int, days: int) -> str:
        """Return an earlier day."""
        return (self._date(now) - timedelta(days=days)).isoformat()

    def begin(self, now: int) -> int:
        """Return when the day began, in milliseconds since the epoch."""
        return self._midnight(self._date(now))

    def end(self, now: int) -> int:
        """Return when the day ends: 23 to 25 hours after its beginning."""
        return self._midnight(self._date(now) + timedelta(days=1))

    def local(self, moment: int) -> datetime:
        """Return a moment in the ship's zone."""
        found = datetime.fromtimestamp(moment / 1000, UTC)
        return found.astimezone(None if self.zone is None else ZoneInfo(self.zone))

    def _date(self, now: int) -> date:
        return self.local(now).date()

    def _midnight(self, day: date) -> int:
        zone = None if self.zone is None else ZoneInfo(self.zone)
        return round(datetime.combine(day, time(), zone).timestamp() * 1000)


class Usage(Struct, frozen=True):
    """What was sent today, and what waits because of the data budget."""

    budget: DataBudget
    #: In ISO 8601, in the ship's zone; and when it ends, in milliseconds since the epoch.
    day: str
    resets_at: int
    #: Bytes.
    by_kind: Mapping[str, int] = field(default_factory=dict)
    #: Until when changes that are not urgent wait, and until when catch-ups do; None if they do not.
    held_until: int | None = None
    catchups_until: int | None = None
    #: Undelivered changes that are not urgent, and whether any change was sent and is not acknowledged.
    ordinary_depth: int = 0
    is_sending: bool = False

    @property
    def used(self) -> int:
        """Bytes sent today."""
        return sum(self.by_kind.values())

    @property
    def left(self) -> int | None:
        """Bytes left today, those of the reserve included; None without a budget."""
        return None if self.budget.limit is None else max(0, self.budget.limit - self.used)

    @property
    def is_held(self) -> bool:
        """Whether changes that are not urgent wait for the next day."""
        return self.held_until is not None

    @property
    def waiting(self) -> int:
        """Changes that wait for the next day."""
        return self.ordinary_depth if self.is_held else 0

    def document(self) -> dict[str, object]:
        """Return it as a JSON object."""
        return {
            "day": self.day,
            "used": self.used,
            "byKind": dict(sorted(self.by_kind.items())),
            "limit": self.budget.limit,
            "left": self.left,
            "reserve": None if self.budget.limit is None else self.budget.reserve,
            "resetsAt": iso(self.resets_at),
            "heldUntil": iso_or_none(self.held_until),
            "catchupsHeldUntil": iso_or_none(self.catchups_until),
            "waiting": self.waiting,
        }


def read_used(connection: Connection, day: str) -> Counter[str]:
    """Return the bytes sent on a day, by kind."""
    rows = connection.execute(sql.usage.OF_DAY, {"day": day}).all()
    return Counter({row.kind: int(row.sent) for row in rows})


def if_ahead(until: int | None, now: int) -> int | None:
    """Return a time, in milliseconds since the epoch, unless it is over."""
    return until if until is not None and until > now else None


def add_usage(
    connection: Connection, amounts: Mapping[tuple[str, str], int], sent: Mapping[str, int]
) -> None:
    """Add to the usage of days, in the owner's transaction.

    :param amounts: bytes by day and kind; negative to correct what was counted in advance.
    :param sent: bytes by kind that have left, for the counter over all days.
    """
    rows = [
        {"day": day, "kind": kind, "sent": n} for (day, kind), n in sorted(amounts.items()) if n
    ]
    if rows:
        connection.execute(sql.usage.ADD, rows)
    add_to_counters(connection, {(BYTES_SENT, kind, "", ""): n for kind, n in sent.items() if n})


def in_units(size: float) -> str:
    """Return bytes in the largest fitting unit, with three significant digits: `12.3 MB`."""
    rounded = float(f"{size:.3g}")
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if rounded >= factor:
            large = rounded >= 1000 * factor
            return f"{size / factor:.0f} {unit}" if large else f"{rounded / factor:.3g} {unit}"
    return f"{size:.0f} B"
