"""The last days as a person wants to see them: when the link came and went, what moved in each minute.

Minutes in which nothing moved are not written: an idle ship writes nothing.
"""

from __future__ import annotations

import time

from sqlalchemy import text

from .changelog import Turn
from .message import now_ms

#: Milliseconds of a minute.
MINUTE = 60_000
#: Seconds between two writes of the minute that runs.
INTERVAL = 5.0
#: Milliseconds for which the history is kept.
KEEP = 31 * 86_400_000

_SAMPLE = text(
    "INSERT INTO arus_sample (minute, depth, published) VALUES (:minute, :depth, :published)"
    " ON CONFLICT (minute) DO UPDATE SET depth = excluded.depth,"
    " published = arus_sample.published + excluded.published"
)
_LINK = text(
    "INSERT INTO arus_link_event (at, connected, reason, generation)"
    " VALUES (:at, :connected, :reason, :generation)"
)
_FORGET_SAMPLES = text("DELETE FROM arus_sample WHERE minute < :before")
_FORGET_EVENTS = text("DELETE FROM arus_link_event WHERE at < :before")


class History:
    """Notes what moves; writes it along with what is written anyway. Lives in the relay's thread."""

    def __init__(self) -> None:
        self._published = 0
        self._depth = 0
        self._written_depth = -1
        self._written_at = 0.0

    def note(self, *, published: int, depth: int) -> None:
        """Note that changes were acknowledged, and how many are undelivered now."""
        self._published += published
        self._depth = depth

    @property
    def due(self) -> bool:
        """Whether something that moved is to be written now."""
        moved = self._published or self._depth != self._written_depth
        return bool(moved) and time.monotonic() - self._written_at >= INTERVAL

    def write(self, turn: Turn) -> None:
        """Add what has moved to its minute, in the owner's transaction."""
        now = now_ms()
        minute = now - now % MINUTE
        turn.execute(
            _SAMPLE, {"minute": minute, "depth": self._depth, "published": self._published}
        )
        self._published = 0
        self._written_depth = self._depth
        self._written_at = time.monotonic()


def note_link(turn: Turn, connected: bool, generation: int, reason: str | None = None) -> None:
    """Note that the link came or went, in the owner's transaction."""
    event = {"at": now_ms(), "connected": connected, "reason": reason, "generation": generation}
    turn.execute(_LINK, event)


def forget_old(turn: Turn) -> None:
    """Forget what nobody looks at any more, in the owner's transaction."""
    before = now_ms() - KEEP
    turn.execute(_FORGET_SAMPLES, {"before": before})
    turn.execute(_FORGET_EVENTS, {"before": before})
