"""The check of the clock."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from datetime import UTC, datetime

from arus.outbox import sql
from arus.protocol.times import iso, now_ms

from .finding import Finding, Verdict
from .vessel import Vessel

#: TIME_ERROR of <sys/timex.h>.
_UNSYNCHRONISED = 5
#: Milliseconds by which a commit time may lie in the future, as the clocks of two hosts differ.
CLOCK_SLACK = 5_000
#: This program did not exist before: a clock that shows an earlier time has an empty battery.
RELEASED = datetime(2026, 1, 1, tzinfo=UTC)


def check_clock(vessel: Vessel) -> Iterator[Finding]:
    """Check the clock against the log, and whether something sets it."""
    now = now_ms()
    with vessel.engine.connect() as connection:
        count, latest = connection.execute(
            sql.changes.COMMITTED_AFTER, {"now": now + CLOCK_SLACK}
        ).one()
    if datetime.now(UTC) < RELEASED:
        yield Finding(
            "clock",
            Verdict.FAIL,
            f"it shows {iso(now)}, which is before this program was released",
            "set the clock; its battery may be empty",
        )
    elif count:
        yield Finding(
            "clock",
            Verdict.WARN,
            f"{count} changes were committed in the future, the last at {iso(latest)}:"
            f" the clock went back by {(latest - now) // 1000} s or more",
            "have the clock set by NTP or GPS; order and delivery do not depend on it, catch-ups"
            " by time do",
        )
    elif not _is_synchronised():
        yield Finding(
            "clock",
            Verdict.WARN,
            f"it shows {iso(now)}, and nothing synchronises it",
            "have it set by NTP or GPS (chrony, systemd-timesyncd)",
        )
    else:
        yield Finding("clock", Verdict.OK, f"it shows {iso(now)}, and no change is later")


def _is_synchronised() -> bool:
    """Return whether the kernel considers its clock synchronised (adjtimex, Linux)."""
    adjust = getattr(ctypes.CDLL(None), "adjtimex", None)
    # All zero: adjtimex changes nothing and returns the clock's state.
    return adjust is None or adjust(ctypes.create_string_buffer(512)) != _UNSYNCHRONISED
