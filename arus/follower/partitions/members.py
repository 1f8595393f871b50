"""The vessels of a partition, which change while it is followed."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from .waker import Waker


class Members:
    """The vessels of one partition: written by the thread that reads the places, read by the partition's own.

    Each vessel has the first status that was received of it, if that is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vessels: dict[str, str | None] = {}
        #: They have changed since `take` was called last.
        self.are_changed = False
        #: Wakes the thread when they change.
        self.waker = Waker()

    def assign(self, vessels: Mapping[str, str | None]) -> None:
        """Set the vessels."""
        with self._lock:
            if vessels.keys() != self._vessels.keys():
                self._vessels = dict(vessels)
                self.are_changed = True
                self.waker.wake()

    def take(self) -> dict[str, str | None]:
        """Return the vessels."""
        with self._lock:
            if self.are_changed:
                self.are_changed = False
                self.waker.clear()
            return dict(self._vessels)
