"""Ownership: at most one process holds the MQTT session, and another takes over the moment it dies.

Each process waits in one thread for a lock that the kernel (SQLite: `flock`) or the server (PostgreSQL: an
advisory lock) releases on any death of its holder. Whoever gets it raises the generation in the database
and relays. The generation fences off a holder that was merely paused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import URL, Connection, Engine, text

from .bell import Bell, BellListener
from .changelog import ChangeLog
from .database import database_file, has_other_names, is_sqlite, open_engine, translated
from .errors import LogUnavailableError, OwnershipLostError, StandbyEndedError
from .relay import Relay

logger = logging.getLogger(__name__)

#: Seconds between two tries when the database can't be used.
RETRY_INTERVAL = 2.0
#: Seconds between two tries of a process that stands by and may give up.
FILE_LOCK_POLL = 0.05
ADVISORY_LOCK_POLL = 0.2
#: The advisory lock's key; one log a database, so it is the same for all.
_ADVISORY_KEY = int.from_bytes(b"arusync", "big")
#: A Unix socket's address holds no more (sockaddr_un).
_MAX_SOCKET_PATH = 100


class OwnerLock(Protocol):
    """What at most one process holds."""

    def hold(
        self, gives_up: Callable[[float], bool] | None = None
    ) -> AbstractContextManager[Connection]:
        """Block until the lock is held; yield the connection on which the owner works.

        :param gives_up: waits for some seconds at most, and returns whether to stand by no longer; asked
            several times a second. None waits for ever.
        :raises StandbyEndedError: `gives_up` said so; the lock is not held.
        """

    def is_held(self, connection: Connection | None = None) -> bool:
        """Whether any process holds the lock.

        :param connection: one to the application's database, which spares making another.
        """


class _ClaimedError(Exception):
    """Another process has claimed the database file."""


def _claim_address(database: Path | None) -> str | None:
    """Return an abstract socket address that says device and inode of a file; None where there is none."""
    if database is None or sys.platform != "linux":
        return None
    try:
        found = database.stat()
    except OSError:  # not made yet: there is nothing to own in it either
        return None
    return f"\0arus-owner-{found.st_dev:x}-{found.st_ino:x}"


def _claim(database: Path | None) -> socket.socket | None:
    """Bind a socket to the address of a database file; None where that can't be done.

    Not a lock on the file: to close it again would drop SQLite's own locks. An abstract address needs no
    directory that all names of the file share, and ends with its process.

    :raises _ClaimedError: another process has bound it.
    """
    address = _claim_address(database)
    if address is None:
        return None
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(address)
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            raise _ClaimedError from error
        return None  # forbidden here: the lock beside the file is what counts
    return claim


def _is_claimed(database: Path | None) -> bool:
    address = _claim_address(database)
    if address is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(address) == 0


class FileLock:
    """A `flock` on a file beside a SQLite database, and a claim on the database file itself.

    All paths that lead to the file share the first. The second is for names that no path tells from another
    file: hard links, and a file that is mounted on another.
    """

    _instances: weakref.WeakSet[FileLock] = weakref.WeakSet()

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        self._fd: int | None = None
        self._claim: socket.socket | None = None
        self._instances.add(self)

    @contextmanager
    def hold(self, gives_up: Callable[[float], bool] | None = None) -> Iterator[Connection]:
        """Block until the lock is held; yield a connection."""
        # flock, not lockf: a POSIX lock is dropped as soon as anyone in the process closes the file.
        # The file is never unlinked: two processes could then hold the lock of two files.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait(self._fd, gives_up)
            self._warn_of_other_names()
            self._wait_for_claim(gives_up)
            with translated():
                connection = self._engine.connect()
            with connection:
                yield connection
        finally:
            self._let_go()

    def is_held(self, connection: Connection | None = None) -> bool:  # noqa: ARG002  # the kernel knows
        """Whether any process holds the lock."""
        if _is_claimed(database_file(self._engine.url)):
            return True
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @staticmethod
    def _wait(fd: int, gives_up: Callable[[float], bool] | None) -> None:
        if gives_up is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
            return
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                # Nothing ends a blocking flock but its lock, and Python goes on with it after a signal.
                if gives_up(FILE_LOCK_POLL):
                    raise StandbyEndedError from None

    def _warn_of_other_names(self) -> None:
        database = database_file(self._engine.url)
        if database is not None and has_other_names(database):
            logger.warning(
                "[MQTT Reliable Sync] %s has hard links: a process that opens it by another name damages it;"
                " use symbolic links",
                database,
            )

    def _wait_for_claim(self, gives_up: Callable[[float], bool] | None) -> None:
        pause = gives_up or threading.Event().wait
        while True:
            try:
                self._claim = _claim(database_file(self._engine.url))
                return
            except _ClaimedError:
                if pause(FILE_LOCK_POLL):
                    raise StandbyEndedError from None

    def _let_go(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            claim.close()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    @classmethod
    def forked(cls) -> None:
        """Close the inherited descriptors in a child, which would hold the lock beyond its parent's death."""
        for lock in list(cls._instances):
            lock._let_go()


os.register_at_fork(after_in_child=FileLock.forked)


class AdvisoryLock:
    """A PostgreSQL advisory lock, held by the very connection that the owner works on.

    When that connection ends, for whatever reason, lock and ability to write end together.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def hold(self, gives_up: Callable[[float], bool] | None = None) -> Iterator[Connection]:
        """Block until the lock is held; yield its connection."""
        with translated():
            connection = self._engine.connect()
        with connection:
            with translated():
                self._wait(connection, gives_up)
            yield connection

    @staticmethod
    def _wait(connection: Connection, gives_up: Callable[[float], bool] | None) -> None:
        key = {"key": _ADVISORY_KEY}
        if gives_up is None:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
            return
        # Not by lock_timeout: the server would log each time that it runs out.
        while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), key).scalar():
            if gives_up(ADVISORY_LOCK_POLL):
                raise StandbyEndedError

    def is_held(self, connection: Connection | None = None) -> bool:
        """Whether any process holds the lock."""
        query = text(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid::bigint = :high AND objid::bigint = :low)"
        )
        high, low = divmod(_ADVISORY_KEY, 2**32)
        with translated(), ExitStack() as stack:
            connection = connection or stack.enter_context(self._engine.connect())
            return bool(connection.execute(query, {"high": high, "low": low}).scalar())


def open_lock(url: URL) -> tuple[OwnerLock, Path]:
    """Return the owner's lock for a database, and the path of its bell. Opens nothing yet."""
    engine = open_engine(url)
    if is_sqlite(url):
        # In memory there is but one process, and the name says nothing.
        database = database_file(url) or Path(url.database or "arus.sqlite").absolute()
        return FileLock(database.with_name(f"{database.name}.owner-lock"), engine), _bell_path(
            database
        )
    name = hashlib.sha256(f"{url.host}:{url.port}/{url.database}".encode()).hexdigest()[:16]
    return AdvisoryLock(engine), Path(tempfile.gettempdir(), f"arus-{os.getuid()}-{name}.bell")


def _bell_path(database: Path) -> Path:
    beside = database.with_name(f"{database.name}.bell")
    if len(os.fsencode(beside)) <= _MAX_SOCKET_PATH:
        return beside
    name = hashlib.sha256(os.fsencode(database)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"arus-{os.getuid()}-{name}.bell")


class Owner:
    """A process's candidate for ownership: one daemon thread.

    :param make_relay: builds the relay once this process owns the session.
    """

    def __init__(
        self,
        lock: OwnerLock,
        bell_path: Path,
        vessel_id: str | None,
        make_relay: Callable[[ChangeLog, BellListener], Relay],
    ) -> None:
        self._lock = lock
        self._bell_path = bell_path
        self._vessel_id = vessel_id
        self._make_relay = make_relay
        self._stopping = threading.Event()
        self._relay: Relay | None = None
        # A daemon: a thread that waits for the lock can't be interrupted, and need not be.
        self._thread = threading.Thread(target=self._run, name="arus-owner", daemon=True)

    def start(self) -> None:
        """Begin to wait for ownership."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Give ownership up, saying goodbye to the broker; return within `timeout` seconds."""
        self._stopping.set()
        relay = self._relay
        if relay is None:
            return  # it waits for the lock, and gives it back at once should it still get it
        relay.stop()
        bell = Bell(self._bell_path)
        bell.ring()
        bell.close()
        self._thread.join(timeout)

    def _run(self) -> None:
        said: str | None = None
        while not self._stopping.is_set():
            try:
                self._own()
                said = None
                continue
            except OwnershipLostError as error:
                logger.warning("[MQTT Reliable Sync] %s; standing down", error)
            except LogUnavailableError as error:
                if str(error) != said:
                    logger.warning("[MQTT Reliable Sync] %s; trying again", error)
                said = str(error)
            except (
                Exception
            ):  # a fault here must cost a pause, not the thread and all that it delivers
                logger.exception("[MQTT Reliable Sync] the relay failed; starting it anew")
            self._stopping.wait(RETRY_INTERVAL)

    def _own(self) -> None:
        with self._lock.hold() as connection:
            if self._stopping.is_set():
                return
            log = ChangeLog(connection, vessel_id=self._vessel_id)
            logger.info(
                "[MQTT Reliable Sync] process %d owns the session (generation %d)",
                os.getpid(),
                log.generation,
                extra={"generation": log.generation},
            )
            bell = BellListener(self._bell_path)
            try:
                self._relay = self._make_relay(log, bell)
                if not self._stopping.is_set():
                    self._relay.run()
                log.stand_down()
            finally:
                self._relay = None
                bell.close()
