"""Keeps the sessions of partitions alive, whatever their threads are doing: computing, or connecting to the broker.

So a session ends after `LEASE` if the process is stopped or its network is gone, and not because its thread is busy.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from sqlalchemy import Connection

from arus.errors import LogUnavailableError
from arus.logs import get_logger
from arus.outbox import sql as outbox_sql

from .locks import BEAT, ENDED

logger = get_logger(__name__)

#: Seconds without a round of its thread after which a session is not kept alive any more: the thread hangs.
HUNG = 300.0
#: libpq's CONNECTION_OK.
_OK = 0


class Lease:
    """One session, for the thread that uses it. Ends with `close`.

    :param connection: of psycopg.
    """

    def __init__(self, connection: Connection, keeper: Keeper) -> None:
        self._driver: Any = connection.connection.driver_connection
        self._keeper = keeper
        self._is_lost = False
        self._round_at = time.monotonic()
        keeper.add(self)

    def check(self) -> None:
        """Note a round of the thread.

        :raises LogUnavailableError: the session has ended, and its locks with it.
        """
        self._round_at = time.monotonic()
        if self._is_lost:
            raise LogUnavailableError(ENDED)

    def close(self) -> None:
        """Keep it alive no more."""
        self._keeper.remove(self)

    def keep(self) -> None:
        """Execute a statement, between two of the thread: psycopg has a lock for that. Called by the keeper."""
        if self._is_lost or time.monotonic() - self._round_at > HUNG:
            return
        if not self._driver.lock.acquire(blocking=False):
            return  # the thread is executing one
        try:
            self._driver.pgconn.exec_(outbox_sql.database.BEAT.encode())
            self._is_lost = self._driver.pgconn.status != _OK
        except Exception:  # whatever it is, the session is of no use any more
            logger.debug("[MQTT Reliable Sync] a session has ended", exc_info=True)
            self._is_lost = True
        finally:
            self._driver.lock.release()


class Keeper:
    """The thread that keeps the sessions of this process alive."""

    def __init__(self) -> None:
        self._kept: set[Lease] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arus leases", daemon=True)

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()

    def add(self, lease: Lease) -> None:
        """Keep a session alive from now on."""
        with self._lock:
            self._kept.add(lease)

    def remove(self, lease: Lease) -> None:
        """Keep it alive no more."""
        with self._lock:  # waits for a statement that is being executed
            self._kept.discard(lease)

    def _run(self) -> None:
        while not self._ended.wait(BEAT):
            with self._lock:
                kept = list(self._kept)
            for lease in kept:
                lease.keep()
