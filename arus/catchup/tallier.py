"""Keeps the tallies: they are made in a separate thread, and what they say of a table is checked beside the catch-up.

A catch-up announces how many items follow. Of a long table that number comes from the tally (`arus.outbox.tallies`), which
does not know of rows that were written without capture. So once such a catch-up has begun, its table is counted all the
same; if the number was wrong, the catch-up begins again with the right one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import Engine

from arus.database import translated
from arus.errors import CatchupError, LogUnavailableError
from arus.logs import get_logger
from arus.outbox.snapshot import SnapshotReader
from arus.outbox.tallies import Moment
from arus.registry import Registration, Registry

from .runs import Run

if TYPE_CHECKING:
    from arus.outbox.log import ChangeLog

logger = get_logger(__name__)

#: Rows that are counted as they are asked for: that takes a millisecond.
AT_ONCE = 10_000
#: Blocks of the log that may be uncounted before they are counted in the thread.
BEHIND = 5
#: Seconds to wait for the thread at the end: a command ends within two, and the thread writes nothing.
_STOP = 1.0


class _Count(Struct):
    """A table to count."""

    registration: Registration
    #: As of this number of the log, the head at that moment.
    high_seq: int
    moment: Moment
    #: The run that has announced a number, and how many rows that was.
    run_id: int | None = None
    announced: int = 0
    #: How many there are; None until they are counted.
    rows: int | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether the run has announced another number."""
        return self.run_id is not None and self.rows != self.announced


class Tallier:
    """Makes the tallies of one owner. The relay's thread calls it.

    :param engine: reads the tables; from `arus.database.open_engine`.
    """

    def __init__(self, log: ChangeLog, registry: Registry, engine: Engine) -> None:
        self._log = log
        self._registry = registry
        self._engine = engine
        #: What is to be counted, and what the thread counts or has counted.
        self._wanted: list[_Count] = []
        self._counted: list[_Count] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        #: The long tables were looked for.
        self._looked = False

    # -- numbers to announce ----------------------------------------------------------------------

    def rows(
        self, run: Run, registration: Registration, snapshot: SnapshotReader, limit: int
    ) -> int:
        """Return how many rows a run will send, up to a limit.

        :param run: planned just now: it ends at the present head.
        """
        after = run.position[1:] or None
        # A run with a limit ends at the announced number: if that were too low, it would leave out rows as if it were
        # complete.
        if after is not None or run.wanted_buckets or not run.is_open_ended:
            return snapshot.count(after, limit)
        known = self._log.row_tally.rows(run.entity)
        if known is None or known <= AT_ONCE:
            few = snapshot.count(None, AT_ONCE + 1)
            if few <= AT_ONCE:
                return few
            known = None
        moment = self._log.row_tally.moment(run.entity)
        if known is None or run.recounted:
            rows = snapshot.count()
            self._log.row_tally.learn(run.entity, rows, moment)
            return rows
        self._wanted.append(_Count(registration, run.high_seq, moment, run.id, announced=known))
        return known

    def take_wrong(self) -> set[int]:
        """Return the ids of the runs that have announced a wrong number, each once."""
        if self._thread is None or self._thread.is_alive():
            return set()
        self._thread = None
        counted, self._counted = self._counted, []
        for count in counted:
            if count.rows is not None:
                self._log.row_tally.learn(count.registration.entity, count.rows, count.moment)
        return {count.run_id for count in counted if count.is_wrong and count.run_id is not None}

    # -- counting ---------------------------------------------------------------------------------

    def mind(self) -> None:
        """Have counted what should be, unless that is being done."""
        if self._thread is not None:
            return
        if not self._looked:
            self._looked = True
            self._want_long_tables()
        acked = {topic: queue.acked_seq for topic, queue in self._log.topic_queues.items()}
        if self._wanted or self._log.tally.behind(acked) >= BEHIND:
            self._counted, self._wanted = self._wanted, []
            self._thread = threading.Thread(target=self._run, name="arus tallier", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a count that it has begun is waited for, but not for long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP)

    def _want_long_tables(self) -> None:
        for registration in self._log.long_tables(self._registry, AT_ONCE):
            moment = self._log.row_tally.moment(registration.entity)
            self._wanted.append(_Count(registration, self._log.head_seq, moment))

    def _run(self) -> None:
        try:
            # Those first on which a catch-up depends that has begun.
            for count in sorted(self._counted, key=lambda one: one.run_id is None):
                if not self._stopping.is_set():
                    count.rows = self._rows(count)
            with translated(), self._engine.connect() as connection:
                while not self._stopping.is_set() and self._log.tally.advance(connection):
                    pass
        except (CatchupError, LogUnavailableError) as error:
            # The numbers are counted when they are needed.
            logger.warning(
                "[MQTT Reliable Sync] the log and the tables were not counted: %s", error
            )

    def _rows(self, count: _Count) -> int:
        context: Callable[[], AbstractContextManager[Any]] = nullcontext
        reader = SnapshotReader(self._engine, context, count.registration, high_seq=count.high_seq)
        return reader.count()
