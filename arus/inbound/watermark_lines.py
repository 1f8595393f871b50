"""The log lines about watermarks: bounded, because whoever may publish can cause them, but no removal goes unmentioned."""

from __future__ import annotations

import time
from collections.abc import Callable

from arus.catchup.limiter import TokenBucket
from arus.logs import get_logger

logger = get_logger(__name__)

#: Lines of each kind at first, and per second after that.
BURST, PER_SECOND = 10, 1 / 60
#: Names of removed followers that wait for a line.
MAX_NAMES = 100


class WatermarkLines:
    """Logs what is wrong with watermarks, and which followers are removed. Used by the relay's thread.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._refusals = TokenBucket(BURST, PER_SECOND, clock)
        self._removals = TokenBucket(BURST, PER_SECOND, clock)
        #: Removed followers that no line has named yet, and how many more there are.
        self._removed: dict[str, None] = {}
        self._more = 0

    def refused(self, name: str, reason: str) -> None:
        """Note why a watermark is not accepted."""
        if self._refusals.take():
            logger.warning("[MQTT Reliable Sync] %s", reason, extra={"follower": name[:64]})

    def removed(self, name: str) -> None:
        """Note that a follower was removed: by an empty watermark, or because there are too many."""
        if len(self._removed) < MAX_NAMES:
            self._removed[name] = None
        elif name not in self._removed:
            self._more += 1

    def write(self) -> None:
        """Log removals, once that is due; to be called often."""
        if not self._removed or not self._removals.take():
            return
        more = f" and {self._more} more" if self._more else ""
        logger.warning(
            "[MQTT Reliable Sync] no longer known as followers: %s%s; an empty watermark has said so, or there are too"
            " many. A follower that still runs is known again with its next watermark; if it was not meant, check who"
            " may publish on the topic watermarks",
            ", ".join(self._removed),
            more,
        )
        self._removed.clear()
        self._more = 0
