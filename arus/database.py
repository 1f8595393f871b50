"""Database access of the relay and the follower: short transactions that take the write lock when they begin."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from arus.logs import get_logger

from .errors import DiskFullError, LogUnavailableError

logger = get_logger(__name__)

_Key = TypeVar("_Key")

#: How long a transaction waits for another writer, in seconds.
LOCK_TIMEOUT = 30
#: Seconds between two attempts to take SQLite's write lock.
_LOCK_POLL = 0.0005
#: Pages of SQLite's write-ahead log above which a commit checkpoints it.
_WAL_PAGES = 4_000
_PAGE_SIZE = 4_096
#: How long a checkpoint waits for the write lock, in seconds.
_CHECKPOINT_WAIT = 1.0
#: How long the last checkpoint of a process waits for other connections, in seconds, and between two attempts.
_FLUSH_WAIT, _FLUSH_POLL = 0.2, 0.005
#: Codes of SQLite for a write that the file system did not accept: the disk is full, or a quota is used up.
_NO_SPACE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
#: PostgreSQL's SQLSTATE for a full disk.
_DISK_FULL = "53100"
#: What SQLite says of a table or column that is not there, and PostgreSQL's SQLSTATEs: the same, and of a schema.
_NO_TABLE = re.compile("^no such (table|column)|has no column named")
_NO_TABLE_STATES = {"42P01", "42703", "3F000"}
#: Keys in one statement.
_MOST_KEYS = 500
#: The key of the advisory lock of a database's owner on PostgreSQL: a database has one log, so it is the same for all.
OWNER_KEY = int.from_bytes(b"arusync", "big")


def open_engine(url: str | URL, *, lease: float | None = None) -> Engine:
    """Return a separate engine on the application's database.

    The application's engine keeps the driver's defaults (a deferred BEGIN on SQLite). On this engine each
    transaction begins explicitly, so that a relay never fails halfway with SQLITE_BUSY_SNAPSHOT.

    :param lease: PostgreSQL 14 or newer: seconds without a statement after which the server ends a session, and its
        locks with it; None for no limit.
    """
    url = make_url(url)
    arguments: dict[str, Any] = (
        {"timeout": LOCK_TIMEOUT, "check_same_thread": False}
        if is_sqlite(url)
        # If a host dies without closing its connection, it must not keep the advisory lock for hours, and a standby
        # process must not wait that long for an answer. Keepalives cover an idle connection; the user timeout
        # covers one with unacknowledged data.
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
    if lease is not None:
        limit = int(lease * 1000)
        arguments["tcp_user_timeout"] = limit
        arguments["options"] += (
            f" -c idle_session_timeout={limit} -c idle_in_transaction_session_timeout={limit}"
            f" -c tcp_user_timeout={limit}"
        )
    engine = create_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments
    )
    if is_sqlite(url):
        event.listen(engine, "connect", _set_pragmas)
    return engine


class _Unheard:
    """Stands for a statement of which all listeners have been told."""

    @staticmethod
    def _remaining_events() -> list[Any]:
        return []


class Reader(Session):
    """A session that reads all rows of a table: no listener of the application (`do_orm_execute`) hides any.

    A listener for all sessions often does, from the application's own queries: those that are marked as deleted.
    """

    def execute(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """Execute a statement, and tell nobody."""
        return super().execute(statement, params, _parent_execute_state=_Unheard, **options)

    def scalars(self, statement: Any, params: Any = None, **options: Any) -> Any:
        """Execute a statement, and tell nobody; return the first values of its rows."""
        return self.execute(statement, params, **options).scalars()


def insert_of(dialect: Dialect) -> Callable[..., Any]:
    """Return the INSERT of the database's own dialect, which has ON CONFLICT."""
    # An import by name loads nothing: what is in use is loaded, and the other database's is 2 MB.
    insert: Callable[..., Any] = import_module(f"sqlalchemy.dialects.{dialect.name}").insert
    return insert


def chunks(keys: Iterable[_Key]) -> Iterator[list[_Key]]:
    """Yield keys in lists that fit one statement."""
    remaining = iter(keys)
    while chunk := list(islice(remaining, _MOST_KEYS)):
        yield chunk


def is_sqlite(url: URL) -> bool:
    """Whether the URL names a SQLite database."""
    return url.get_backend_name() == "sqlite"


def database_file(url: URL) -> Path | None:
    """Return the file of a SQLite database; all names of one file give the same path.

    Symbolic links are followed, even if their target does not exist yet: SQLite does the same, and puts its
    write-ahead log next to the target. Hard links can't be resolved, by SQLite either (`has_other_names`).

    :param url: a relative path is relative to the working directory.
    :returns: an absolute path without symbolic links; None for a database in memory or on a server.
    """
    if not is_sqlite(url):
        return None
    # Ask the dialect what it passes to the driver: it removes ".." before links are followed, and adds the
    # query's options to a URI.
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


def give_to_owner(handle: int, database: Path | None) -> None:
    """Give a file next to a database to the database's owner, if root has opened it.

    SQLite does so with its own files. Otherwise a command that root has run once would lock the server's user out.
    """
    if database is None or os.geteuid() != 0:
        return
    with suppress(OSError):  # there is no database yet, or a file system without owners
        found = database.stat()
        os.fchown(handle, found.st_uid, found.st_gid)


def has_other_names(database: Path) -> bool:
    """Whether a database's file has hard links: under another name its WAL and the owner's lock are not found."""
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

    The owner checkpoints it long before this limit (`shorten_wal`), so that no request has to. The limit is for
    the case that there is no owner, or that it is stuck.
    """
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_PAGES * _PAGE_SIZE}")


def shorten_wal(connection: Connection, *, most: int) -> None:
    """Checkpoint SQLite's write-ahead log, and restart it from its beginning if it has more than `most` pages.

    SQLite's automatic checkpoint does not wait for other connections: while they commit all the time, some pages
    are always left, so the log is never restarted and keeps growing. A restarted log overwrites its own file,
    which makes a commit three times as cheap as on a growing file.

    Readers may prevent the restart; the next call tries again.

    :raises LogUnavailableError: it can't be done now; on a full disk, because the database has to grow.
    """
    if connection.dialect.name != "sqlite" or connection.invalidated:
        return
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    try:
        # First without a lock; few pages are added meanwhile.
        _, pages, _ = driver.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > most:
            # The checkpoint would wait for the write lock with SQLite's slow back-off. Take the lock and release it
            # at once: then it is most likely free for the checkpoint.
            begin_immediate(driver, _CHECKPOINT_WAIT)
            driver.execute("COMMIT")
            driver.execute("PRAGMA busy_timeout = 0")
            driver.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error as error:
        raise _unavailable(error) from error
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000}")


def empty_wal(connection: Connection) -> None:
    """Move all of SQLite's write-ahead log into the database file, and give its space on the disk back.

    Does what it can: other connections may prevent it.

    :raises LogUnavailableError: it can't be done now; on a full disk, because the database has to grow.
    """
    if connection.dialect.name != "sqlite" or connection.invalidated:
        return
    driver = cast("sqlite3.Connection", connection.connection.driver_connection)
    try:
        driver.execute("PRAGMA busy_timeout = 0")
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise _unavailable(error) from error
    finally:
        driver.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT * 1000}")


def flush_wal(url: URL) -> None:
    """Move SQLite's write-ahead log into the database file; to be called by a process that leaves, after its last commit.

    SQLite does so itself when the last connection is closed, but processes end without closing theirs, and two that
    close at the same time both leave it to the other. The last process to call this leaves one file that holds
    everything. If another process reads or writes all the time, that one will be the last.
    """
    database = database_file(url)
    if database is None or not _has_wal(database):
        return
    address = f"{database.as_uri()}?mode=rw"  # never creates a file
    deadline = time.monotonic() + _FLUSH_WAIT
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=_FLUSH_WAIT)) as connection:
            # Without SQLite's own wait, during which it holds the write lock.
            connection.execute("PRAGMA busy_timeout = 0")
            while _is_busy(connection) and time.monotonic() < deadline:
                time.sleep(_FLUSH_POLL)
    except sqlite3.Error as error:
        logger.warning(
            "[MQTT Reliable Sync] %s-wal still holds commits (%s): copy it together with the database",
            database,
            error,
        )


def _has_wal(database: Path) -> bool:
    try:
        return database.with_name(f"{database.name}-wal").stat().st_size > 0
    except OSError:
        return False


def _is_busy(connection: sqlite3.Connection) -> bool:
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return bool(busy)


def begin_immediate(connection: sqlite3.Connection, timeout: float) -> None:
    """Begin a write transaction on SQLite as soon as the write lock is free.

    SQLite's own busy handler sleeps 1, 2, 5, 10 ... 100 ms between attempts: the connection that has waited
    longest tries least often, and the lock is idle meanwhile. An attempt costs three microseconds.

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
def translated(connection: Connection | None = None) -> Iterator[None]:
    """Turn errors of the database driver into `LogUnavailableError`.

    :param connection: whose driver is used directly, so that SQLAlchemy does not wrap its errors.
    """
    direct = () if connection is None else (connection.dialect.loaded_dbapi.Error,)
    try:
        yield
    except DBAPIError as error:
        raise _unavailable(error.orig) from error
    except direct as error:
        if connection is not None:
            _note_disconnect(connection, error)
        raise _unavailable(error) from error


def is_of_a_value(error: Exception) -> bool:
    """Whether an error of reading rows is about a stored value, not about the database.

    The driver can't read it, or its column's type, which may be the application's.
    """
    if not isinstance(error, DBAPIError):
        return True
    # What Python's sqlite3 module says of a text that is no UTF-8. SQLite's own errors have a code.
    of_python = isinstance(error.orig, sqlite3.OperationalError) and not hasattr(
        error.orig, "sqlite_errorcode"
    )
    return of_python or isinstance(error, DataError)


def lacks_tables(error: BaseException | None) -> bool:
    """Whether an error of SQLAlchemy or of a driver says that a table or column is missing: the database is not migrated."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _NO_TABLE.search(str(cause)) is not None
    return getattr(cause, "sqlstate", None) in _NO_TABLE_STATES


@contextmanager
def raised_by_sqlalchemy(connection: Connection, statement: str) -> Iterator[None]:
    """Raise the errors of a driver that is used directly as SQLAlchemy raises them: callers know them as `DBAPIError`.

    :param connection: whose driver runs `statement`.
    """
    driver_error = connection.dialect.loaded_dbapi.Error
    try:
        yield
    except driver_error as error:
        _note_disconnect(connection, error)
        raise DBAPIError.instance(
            statement, None, error, driver_error, dialect=connection.dialect
        ) from error


def _note_disconnect(connection: Connection, error: Any) -> None:
    """Let SQLAlchemy know that a connection is gone, as it would after an error of its own."""
    if connection.invalidated or connection.closed:
        return
    driver = connection.connection.dbapi_connection
    if connection.dialect.is_disconnect(error, driver, None):
        connection.invalidate(error)


def _unavailable(error: BaseException | None) -> LogUnavailableError:
    says = f"the change log can't be used: {error}"
    if getattr(error, "sqlite_errorcode", None) in _NO_SPACE:
        return DiskFullError(says)
    if getattr(error, "sqlstate", None) == _DISK_FULL:
        return DiskFullError(says)
    return LogUnavailableError(says)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read-only transaction that sees one snapshot of the database."""
    with translated(), engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql(
            "BEGIN" if sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        )
        try:
            yield connection
        finally:
            connection.exec_driver_sql("ROLLBACK")


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """Run a write transaction on a connection of `open_engine`.

    :raises LogUnavailableError: the database refused; nothing was committed.
    """
    _begin(connection)
    try:
        with translated(connection):
            yield connection
            driver_connection(connection).execute("COMMIT")
    except BaseException:
        if not connection.invalidated and not connection.closed:
            _roll_back(connection)
        raise


def driver_connection(connection: Connection) -> Any:
    """Return the driver's own connection: of `sqlite3` or psycopg.

    Not to be kept: after a lost connection SQLAlchemy may open another.
    """
    # The same as `driver_connection` with drivers that are not asynchronous, which are found by four calls.
    driver: Any = connection.connection.dbapi_connection
    assert driver is not None, "the connection is open"
    return driver


def _begin(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        with translated():
            connection.exec_driver_sql("BEGIN")
        return
    try:
        begin_immediate(driver_connection(connection), LOCK_TIMEOUT)
    except sqlite3.Error as error:
        raise _unavailable(error) from error


def _roll_back(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:
        return  # SQLite has rolled back by itself, for example on a full disk
    try:
        connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        connection.invalidate()  # the connection is gone, and its transaction with it
