"""The rate limits, and their storage in one small SQLite file, shared by all workers of a host."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from os import getpid
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from flask import Response
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits import RateLimitItem
from limits.storage import Storage

from .api import problem

_SCHEMA = """
CREATE TABLE IF NOT EXISTS hits (key TEXT PRIMARY KEY, count INTEGER NOT NULL, expires REAL NOT NULL);
CREATE INDEX IF NOT EXISTS ix_hits_expires ON hits (expires);
"""
_COUNT = """
INSERT INTO hits VALUES (:key, :amount, :now + :expiry) ON CONFLICT (key) DO UPDATE SET
    count = CASE WHEN expires <= :now THEN excluded.count ELSE count + excluded.count END,
    expires = CASE WHEN expires <= :now THEN excluded.expires ELSE expires END
RETURNING count
"""
_TRIM = """
DELETE FROM hits WHERE expires <= :now OR key IN (
    SELECT key FROM hits ORDER BY expires DESC LIMIT -1 OFFSET :most
)
"""


class CountedLimits(Limiter):
    """Limits of what calls a function that is decorated with one.

    There are none for all requests: to look for some takes a tenth of a short request.
    """

    def _check_request_limit(
        self, callable_name: str | None = None, in_middleware: bool = True
    ) -> None:
        if not in_middleware:
            super()._check_request_limit(callable_name, in_middleware)

    def wait_for(self, limit: RateLimitItem, scope: str) -> float | None:
        """Count the current request for its address, and return how many seconds it has to wait; None if it may go on.

        A decorated function does the same in seven times the instructions, most of them to find its limits.

        :param scope: what is limited.
        """
        if not self.enabled:
            return None
        address = get_remote_address()
        try:
            if self.limiter.hit(limit, address, scope):
                return None
            return self.limiter.get_window_stats(limit, address, scope).reset_time - time.time()
        except sqlite3.Error:
            self.logger.exception("Failed to rate limit. Swallowing error")
            return None


def too_many(limit: object, wait: float) -> Response:
    """Return the answer to a request that exceeds a limit.

    :param wait: seconds after which another one may be answered.
    """
    detail = f"No more than {limit} are answered."
    return problem(429, detail, headers={"Retry-After": str(max(1, math.ceil(wait)))})


class SqliteStorage(Storage):
    """Counters of fixed windows in the SQLite file of a `sqlite-counters:///path` URI.

    Losing them in a power cut is harmless, so writes do not wait for the disk.
    """

    STORAGE_SCHEME = ["sqlite-counters"]
    #: Maximum number of keys; those that expire first are removed first.
    MOST_KEYS = 10_000
    #: Number of counts between two removals of expired keys.
    TRIM_EVERY = 500

    def __init__(
        self, uri: str, wrap_exceptions: bool = False, **_options: float | str | bool
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self.path = Path(unquote(urlsplit(uri).path))
        self._local = threading.local()
        self._counts = 0

    @classmethod
    def uri(cls, path: Path) -> str:
        """Return the URI of the counters in the file at `path`."""
        return f"{cls.STORAGE_SCHEME[0]}://{quote(str(path))}"

    @property
    def base_exceptions(self) -> type[Exception]:
        """The database's exception class."""
        return sqlite3.Error

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add `amount` to the count of `key` and return the count of its window."""
        now = time.time()
        values = {"key": key, "amount": amount, "expiry": expiry, "now": now}
        (count,) = self._connection().execute(_COUNT, values).fetchone()
        self._counts += 1
        if self._counts % self.TRIM_EVERY == 0:
            self.trim()
        return int(count)

    def get(self, key: str) -> int:
        """Return the count of the current window of `key`."""
        row = self._row(key)
        return row[0] if row else 0

    def get_expiry(self, key: str) -> float:
        """Return when the current window of `key` ends."""
        row = self._row(key)
        return row[1] if row else time.time()

    def check(self) -> bool:
        """Whether the file can be used."""
        try:
            self._connection().execute("SELECT 1 FROM hits LIMIT 1")
        except sqlite3.Error:
            return False
        return True

    def reset(self) -> int:
        """Delete all counts and return how many there were."""
        return self._connection().execute("DELETE FROM hits").rowcount

    def clear(self, key: str) -> None:
        """Delete the count of `key`."""
        self._connection().execute("DELETE FROM hits WHERE key = ?", (key,))

    def trim(self) -> None:
        """Remove expired keys, and those beyond the maximum number."""
        self._connection().execute(_TRIM, {"now": time.time(), "most": self.MOST_KEYS})

    def _row(self, key: str) -> tuple[int, float] | None:
        query = "SELECT count, expires FROM hits WHERE key = ? AND expires > ?"
        row: tuple[int, float] | None = (
            self._connection().execute(query, (key, time.time())).fetchone()
        )
        return row

    def _connection(self) -> sqlite3.Connection:
        # SQLite connections must not be shared between threads, nor used after a fork.
        if getattr(self._local, "pid", None) != getpid():
            self._local.connection = self._connect()
            self._local.pid = getpid()
        connection: sqlite3.Connection = self._local.connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        connection.executescript(_SCHEMA)
        return connection
