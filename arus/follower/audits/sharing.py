"""What audits share: the threads that verify, the reading of orphans, and the permit to delete orphans.

A follower in one process has one of each. The partitions of a process share the first two, and those of all processes
the third.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from msgspec import Struct
from sqlalchemy import Connection, Engine, Executable

from arus.follower.rows import Copy
from arus.outbox import sql as outbox_sql

from .orphans import Orphans

#: Verifications that run at a time.
MAX_RUNNING = 2
#: Seconds for which a vessel's repair may have the permit to delete orphans.
TURN = 60.0
#: The kind of the advisory lock of the permit to delete orphans.
_ORPHANS = int.from_bytes(b"aruo", "big")


class Slots:
    """How many verifications may run at a time."""

    def __init__(self, most: int = MAX_RUNNING) -> None:
        self._most = most
        self._running = 0
        self._lock = threading.Lock()

    @property
    def is_free(self) -> bool:
        """Whether another one may run."""
        return self._running < self._most

    def thread(self, run: Callable[[], None]) -> threading.Thread:
        """Return a thread for one, not started yet; it counts from now until its end."""
        with self._lock:
            self._running += 1

        def counted() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._running -= 1

        return threading.Thread(target=counted, name="arus audit", daemon=True)


class Permit:
    """The permit to delete orphans: one vessel's repair at a time is enough.

    A vessel may never answer its repair, so the permit ends after `TURN`. Nothing is wrong if two vessels have it.

    :param connection: of a partition, whose session takes an advisory lock; None if there is one process only.
    """

    def __init__(self, connection: Connection | None = None) -> None:
        self._connection = connection
        #: The vessel that has it here, and until when (monotonic seconds).
        self._holder = ""
        self._until = 0.0

    def take(self, vessel_id: str) -> bool:
        """Take it for a vessel; return False if another vessel has it, here or in another process."""
        if not self._holder:
            if self._connection is not None and not self._call(outbox_sql.database.TRY_LOCK_OF):
                return False
            self._holder, self._until = vessel_id, time.monotonic() + TURN
        return self._holder == vessel_id

    def give(self, vessel_id: str) -> None:
        """Give it back if this vessel has it."""
        if self._holder == vessel_id:
            self.end()

    def step(self) -> None:
        """Give it back if its time is over; to be called now and then."""
        if self._holder and time.monotonic() >= self._until:
            self.end()

    def end(self) -> None:
        """Give it back, whoever has it here: its loop has ended, but the session goes on."""
        if self._holder and self._connection is not None:
            self._call(outbox_sql.database.UNLOCK_OF)
        self._holder = ""

    def _call(self, statement: Executable) -> bool:
        assert self._connection is not None
        lock = {"kind": _ORPHANS, "number": 0}
        return bool(self._connection.execute(statement, lock).scalar())


class Shared(Struct, frozen=True):
    """What the audits of one loop share with others."""

    slots: Slots
    orphans: Orphans
    permit: Permit
    #: Nobody shares it: it ends with the loop.
    is_own: bool = False

    @staticmethod
    def with_nobody(
        engine: Engine, copies: Mapping[str, Copy], stopping: threading.Event
    ) -> Shared:
        """Return what a loop uses that is alone.

        :param stopping: set when it ends.
        """
        return Shared(Slots(), Orphans(engine, copies, stopping), Permit(), is_own=True)

    def stop(self) -> None:
        """Wait for the end of what only this loop uses."""
        if self.is_own:
            self.orphans.join(10)
