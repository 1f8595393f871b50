"""A settable clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from arus import clock
from arus.errors import ArusError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """The sync's clock inside `set_clock`; it stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    @property
    def now(self) -> datetime:
        """The time, in UTC; it can be set forward or back."""
        return self._now

    @now.setter
    def now(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise ArusError(f"{now} has no time zone")
        self._now = now.astimezone(UTC)

    def advance(self, **duration: float) -> datetime:
        """Move the clock by a duration, given as for `timedelta`: `clock.advance(days=8)`; return the new time."""
        self._now += timedelta(**duration)
        return self._now

    def read_ns(self) -> int:
        """Return the time in nanoseconds since the epoch."""
        return (self._now - _EPOCH) // timedelta(microseconds=1) * 1_000


@contextmanager
def set_clock(now: datetime | str) -> Iterator[Clock]:
    """Replace the sync's clock, in the whole process, by one that the test controls.

    Durations (pauses, timeouts, the keepalive) are still measured by the system's monotonic clock.

    :param now: the clock's initial time, with a time zone; or the same as ISO 8601 text.
    """
    moment: Any = datetime.fromisoformat(now) if isinstance(now, str) else now
    own = Clock(moment)
    with clock.replaced(own.read_ns):
        yield own
