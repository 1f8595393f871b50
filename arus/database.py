"""The relay's own way to the database: short transactions that take the write lock at their start."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from .errors import LogUnavailableError

#: How long a transaction waits for another writer, in seconds.
LOCK_TIMEOUT = 30
#: Seconds between two attempts to take SQLite's write lock.
_LOCK_POLL = 0.0005
#: Pages of SQLite's write-ahead log beyond which a commit moves it to the database.
_WAL_PAGES = 4_000
_PAGE_SIZE = 4_096
#: How long a checkpoint waits for the write lock, in seconds.
_CHECKPOINT_WAIT = 1.0


def open_engine(url: str | URL) -> Engine:
    """Return an engine on the application's database that leaves the application's own engine alone.

    The application's engine keeps the driver's habits (a deferred BEGIN on SQLite); here each transaction
    says itself when it begins, so that a relay never fails with SQLITE_BUSY_SNAPSHOT half-way.
    """
    url = make_url(url)
    arguments: dict[str, Any] = (
        {"timeout": LOCK_TIMEOUT, "check_same_thread": False}
        if is_sqlite(url)
        # A host that dies without a word must not keep the advisory lock for hours, nor a process that stands by waiting
        # for an answer (keepalives count while nothing is under way, the user timeout while something is).
        else {
            "application_name": "arus relay",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=3"
            " -c tcp_keepalives_count=3 -c lock_timeout=0",
        }
    )
    engine = create_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments
    )
    if is_sqlite(url):
        event.listen(engine, "connect", _set_pragmas)
    return engine


def is_sqlite(url: URL) -> bool:
    """Whether the URL names a SQLite database."""
    return url.get_backend_name() == "sqlite"


def database_file(url: URL) -> Path | None:
    """Return the file that SQLite keeps a database in; all names of one file give the same path.

    Links are followed, those too whose file is not there yet: SQLite does so, and puts its write-ahead log beside
    the file that it finds. A hard link is a name of its own, for SQLite as well (`has_other_names`).

    :param url: a relative path is one from the working directory.
    :returns: an absolute path without links; None for a database in memory, or one on a server.
    """
    if not is_sqlite(url):
        return None
    # The dialect knows best what the driver is told: it removes ".." before links are followed, and adds what
    # the query says to a URI.
    (name, *_), options = url.get_dialect()().create_connect_args(url)
    name = str(name)
    if options.get("uri") and name.startswith("file:"):
        parts = urlsplit(name)
        wanted = parse_qs(parts.query)
        if wanted.get("mode", [""])[-1] == "memory" or wanted.get("vfs", [""])[-1] == "memdb":
            return None
        name = os.fsdecode(unquote_to_bytes(parts.path))
    if name in {"", ":memory:"}:
        return None
    return Path(os.path.realpath(name))


def has_other_names(database: Path) -> bool:
    """Whether a database's file has hard links, by which neither SQLite's log nor the owner's lock can be found."""
    try:
        return database.stat().st_nlink > 1
    except OSError:
        return False


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA synchronous=FULL")  # ships lose power
    connection.execute("PRAGMA cache_size=-8000")
    bound_wal(connection)


def bound_wal(connection: sqlite3.Connection) -> None:
    """Have SQLite keep its write-ahead log short on this connection.

    The owner moves it to the database long before (`shorten_wal`), so that no request has to; this is for when
    there is no owner, or one that stands still.
    """
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * _PAGE_SIZE}")


def shorten_wal(connection: Connection, *, most: int) -> None:
    """Move SQLite's write-ahead log to the database, and let it begin anew if it has more than `most` pages.

    SQLite's own checkpoint waits for nobody: while others commit all the time, some page is always left, the log
    does not begin anew, and grows on. One that does is written over what is there, and that costs a commit a third
    of what a growing file costs.

    Readers may prevent it, and the next call will do it.

    :raises LogUnavailableError: it can't be done now; on a full disk, as the database has to grow.
    """
    if connection.dialect.name != "sqlite" or connection.invalidated:
        return
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    try:
        # First without a lock; what has come meanwhile is little.
        _, pages, _ = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > most:
            # The checkpoint would wait for the write lock as SQLite does. Who has just given it back is the next.
            begin_immediate(driver, _CHECKPOINT_WAIT)
            driver.execute("COMMIT")
            driver.execute("PRAGMA busy_timeout = 0")
            driver.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error as error:
        raise LogUnavailableError(f"the change log can't be used: {error}") from error
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000}")


def begin_immediate(connection: sqlite3.Connection, timeout: float) -> None:
    """Begin a write transaction on SQLite as soon as the write lock is free.

    SQLite's own wait sleeps 1, 2, 5, 10 ... 100 ms and looks again: whoever has waited longest looks least
    often, and the lock lies idle meanwhile. An attempt costs three microseconds.

    :param timeout: seconds; the connection's own `busy_timeout` is set to it afterwards.
    :raises sqlite3.OperationalError: the lock was not free in time.
    """
    deadline = time.monotonic() + timeout
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() >= deadline:
                    raise
            time.sleep(_LOCK_POLL)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the database driver raises into the tree of `arus.errors`."""
    try:
        yield
    except DBAPIError as error:
        raise LogUnavailableError(f"the change log can't be used: {error.orig}") from error


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """Run a write transaction on a connection of `open_engine`.

    :raises LogUnavailableError: the database refused; nothing was committed.
    """
    with translated():
        _begin(connection)
    try:
        with translated():
            yield connection
            connection.exec_driver_sql("COMMIT")
    except BaseException:
        if not connection.invalidated and not connection.closed:
            _roll_back(connection)
        raise


def _begin(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql("BEGIN")
        return
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    try:
        begin_immediate(driver, LOCK_TIMEOUT)
    except sqlite3.Error as error:
        raise LogUnavailableError(f"the change log can't be used: {error}") from error


def _roll_back(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:
        return  # SQLite has rolled back by itself: a full disk
    try:
        connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        connection.invalidate()  # it is gone: no transaction is open
