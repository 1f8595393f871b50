"""Times on the wire: milliseconds since the epoch, and ISO 8601 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from arus.clock import now_ns
from arus.errors import RefusedMessageError

#: Maximum length of a time in characters.
MAX_TIME = 40
#: The first and the last millisecond that can be written as a time in UTC: years 1 to 9999.
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return now_ns() // 1_000_000


def iso(milliseconds: int) -> str:
    """Return a time as ISO 8601 in UTC with milliseconds and `Z`."""
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{_iso_second(seconds)}.{fraction:03d}Z"


def iso_or_none(milliseconds: int | None) -> str | None:
    """Return a time as `iso` does, or None for None."""
    return None if milliseconds is None else iso(milliseconds)


@lru_cache(maxsize=64)
def _iso_second(seconds: int) -> str:
    # Many messages have the same second, and formatting it takes as long as encoding a message.
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def parse_time(value: object) -> int:
    """Parse an ISO 8601 time to milliseconds since the epoch; without a zone it is UTC.

    :raises RefusedMessageError: it is not a time, or not within the years 1 to 9999 in UTC.
    """
    try:
        if not isinstance(value, str) or len(value) > MAX_TIME:
            raise ValueError  # all invalid times get the same error message
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        milliseconds = round(moment.timestamp() * 1000)
        if not _FIRST <= milliseconds <= _LAST:
            raise ValueError
        return milliseconds
    except (ValueError, OverflowError) as error:
        raise RefusedMessageError("timestamp is not a time in ISO 8601") from error


def read_moment(text: str) -> datetime:
    """Parse the ISO 8601 time of a request; without a zone it is UTC.

    :raises ValueError: it is not a time, or before 1970.
    :raises OverflowError: the time is out of range in UTC.
    """
    if len(text) > MAX_TIME:
        raise ValueError("too long")
    moment = datetime.fromisoformat(text.strip())
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment.year < 1970:
        raise ValueError("before 1970")
    return moment
