"""Limits how many watermarks are written: each one is a write to the vessel's disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from arus.catchup.limiter import TokenBucket
from arus.logs import get_logger
from arus.mqtt.events import Received
from arus.outbox.followers import MAX_FOLLOWERS

logger = get_logger(__name__)


class WatermarkLimiter:
    """Keeps the newest watermark of each follower until it may be written. Used by the relay's thread.

    :param clock: returns monotonic seconds.
    """

    #: Watermarks per second of one follower, and of all; the burst that is allowed before.
    BURST, PER_SECOND = 20, 20
    TOTAL_BURST, TOTAL_PER_SECOND = 200, 100
    #: Seconds until watermarks over the limit are looked at again.
    PAUSE = 0.05
    #: Names whose watermarks are kept: each known follower's, and as many new ones.
    MAX_NAMES = 2 * MAX_FOLLOWERS

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = TokenBucket(self.TOTAL_BURST, self.TOTAL_PER_SECOND, clock)
        self._shares: dict[str, TokenBucket] = {}
        self._waiting: dict[str, Received] = {}
        self._is_full = False
        #: When `due` is to be called next, in monotonic seconds.
        self.wake_at = math.inf
        #: Watermarks that were discarded because there are too many names.
        self.discarded = 0

    def begin(self) -> None:
        """Begin a connection: the broker sends unacknowledged watermarks again."""
        self._waiting.clear()
        self.wake_at = math.inf

    def take(self, name: str, received: Received) -> Received | None:
        """Keep a watermark; return the message that is not written, to be acknowledged.

        That is the follower's earlier one, or this one if there are too many names.
        """
        if name not in self._waiting and len(self._waiting) >= self.MAX_NAMES:
            self.discarded += 1
            if not self._is_full:
                self._is_full = True
                logger.warning(
                    "[MQTT Reliable Sync] watermarks of %d followers wait: those of others are discarded",
                    self.MAX_NAMES,
                )
            return received
        before = self._waiting.pop(name, None)
        self._waiting[name] = received
        self.wake_at = min(self.wake_at, self._clock())
        return before

    def due(self) -> list[Received]:
        """Return the watermarks that may be written now."""
        if self._clock() < self.wake_at:
            return []
        found = []
        for name, received in list(self._waiting.items()):
            share = self._shares.get(name)
            if share is None:
                share = TokenBucket(self.BURST, self.PER_SECOND, self._clock)
            if share.take() and self._total.take():
                self._keep_share(name, share)
                found.append(received)
                del self._waiting[name]
        self.wake_at = self._clock() + self.PAUSE if self._waiting else math.inf
        if not self._waiting:
            self._is_full = False
        return found

    def _keep_share(self, name: str, share: TokenBucket) -> None:
        self._shares.pop(name, None)
        self._shares[name] = share
        if len(self._shares) > self.MAX_NAMES:
            del self._shares[next(iter(self._shares))]
