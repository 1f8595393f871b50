"""What audits share: the threads that verify, the reading of orphans, and the permit to delete orphans.

A follower in one process has one of each. The partitions of a process share the first two, and those of all processes
the third.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from msgspec import Struct
from sqlalchemy import Connection, Engine

from arus.follower.rows import Copy
from arus.outbox import sql as outbox_sql

from .orphans import Orphans

#: Verifications that run at a time.
MAX_RUNNING = 2
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

    :param connection: of a partition, whose session takes an advisory lock; None if there is one process only.
    """

    def __init__(self, connection: Connection | None = None) -> None:
        self._connection = connection

    def take(self) -> bool:
        """Take it; return False if another process has it."""
        return self._connection is None or bool(
            self._connection.execute(
                outbox_sql.database.TRY_LOCK_OF, {"kind": _ORPHANS, "number": 0}
            ).scalar()
        )

    def give(self) -> None:
        """Give it back."""
        if self._connection is not None:
            self._connection.execute(
                outbox_sql.database.UNLOCK_OF, {"kind": _ORPHANS, "number": 0}
            ).scalar()


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
