"""The follower's roll calls: when all vessels are asked to publish their status."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

#: Seconds within which vessels answer, and a little more.
ANSWERED_WITHIN = 35.0
#: Seconds between two roll calls: of new connections, for a vessel that is silent, and in any case.
AFTER_CONNECTING = 300.0
FOR_A_SILENT_VESSEL = 3_600.0
DAILY = 86_400.0
#: Milliseconds without a message of an online vessel, which publishes its status each 15 minutes.
SILENT = 35 * 60_000


class Heard(Protocol):
    """A vessel, as far as it matters here."""

    @property
    def online(self) -> bool | None:
        """Whether it is online, by its last status."""

    @property
    def heard_at(self) -> int:
        """When it was last heard, in milliseconds since the epoch."""


class RollCalls:
    """Decides when one is due. Used by the follower's thread only."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent_at = -math.inf
        self._connected = False

    def subscribed(self) -> None:
        """Note a new connection: some brokers send no retained messages for a filter with wildcards."""
        self._connected = True

    def sent(self) -> None:
        """Note that it was published."""
        self._sent_at = self._clock()
        self._connected = False

    def is_due(self, vessels: Iterable[Heard], now: int) -> bool:
        """Return whether it is due.

        :param now: milliseconds since the epoch.
        """
        age = self._clock() - self._sent_at
        if age >= DAILY or (self._connected and age >= AFTER_CONNECTING):
            return True
        return age >= FOR_A_SILENT_VESSEL and any(
            vessel.online and now - vessel.heard_at >= SILENT for vessel in vessels
        )

    @property
    def is_answered(self) -> bool:
        """Whether the vessels have had the time to answer the last one."""
        return self._clock() - self._sent_at >= ANSWERED_WITHIN


class NoRollCalls(RollCalls):
    """For a loop whose vessels are found by another one."""

    def is_due(self, vessels: Iterable[Heard], now: int) -> bool:  # noqa: ARG002
        """Return False."""
        return False
