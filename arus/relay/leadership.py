"""Leadership: at most one process holds the MQTT session, and another takes over as soon as it dies.

Each process waits in one thread for a lock that the kernel (SQLite: `flock`) or the server (PostgreSQL: an
advisory lock) releases when its holder dies in any way. The process that gets the lock raises the generation in the
database and relays. The generation fences off a former holder that was only paused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import URL, Connection, Engine

from arus.database import (
    OWNER_KEY,
    database_file,
    give_to_owner,
    has_other_names,
    is_sqlite,
    open_engine,
    translated,
)
from arus.errors import LeadershipLostError, LogUnavailableError, StandbyEndedError
from arus.logs import get_logger
from arus.outbox import sql
from arus.outbox.driver import read_rows
from arus.outbox.log import ChangeLog
from arus.outbox.notifier import NotificationListener, Notifier
from arus.outbox.reserve import DiskReserve

if TYPE_CHECKING:
    from .loop import Relay

logger = get_logger(__name__)

#: Seconds between two attempts when the database can't be used.
RETRY_INTERVAL = 2.0
#: Seconds between two attempts to get the lock, of a process that may stop standing by.
FILE_LOCK_POLL = 0.05
ADVISORY_LOCK_POLL = 0.2
#: Maximum length of a Unix socket's path (sockaddr_un).
_MAX_SOCKET_PATH = 100


class LeadershipLock(Protocol):
    """A lock that at most one process holds."""

    def hold(
        self, gives_up: Callable[[float], bool] | None = None
    ) -> AbstractContextManager[Connection]:
        """Block until the lock is held; yield the connection on which the owner works.

        :param gives_up: waits for the given seconds at most, and returns whether to stop standing by; called
            several times a second. None to wait for ever.
        :raises StandbyEndedError: `gives_up` returned True; the lock is not held.
        """

    def is_held(self, connection: Connection | None = None) -> bool:
        """Whether any process holds the lock.

        :param connection: an open connection to the application's database, to be used instead of a new one.
        """


class _ClaimedError(Exception):
    """Another process has claimed the database file."""


def _claim_address(database: Path | None) -> str | None:
    """Return an abstract socket address with device and inode of a file; None if it can't be made."""
    if database is None or sys.platform != "linux":
        return None
    try:
        found = database.stat()
    except OSError:  # not created yet: there is nothing to own in it
        return None
    return f"\0arus-owner-{found.st_dev:x}-{found.st_ino:x}"


def _claim(database: Path | None) -> socket.socket | None:
    """Bind a socket to the address of a database file; return None if that can't be done.

    This is not a lock on the file: closing the file again would drop SQLite's own locks. An abstract address does not
    need a directory that all names of the file share, and it ends with its process.

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
        return None  # forbidden here: the lock next to the file has to suffice
    return claim


def _is_claimed(database: Path | None) -> bool:
    address = _claim_address(database)
    if address is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return probe.connect_ex(address) == 0


class FileLock:
    """A `flock` on a file next to a SQLite database, and a claim on the database file itself.

    All paths that resolve to the same file share the first. The second covers names that can't be resolved to the
    same path: hard links, and a file that is mounted on another.
    """

    _instances: weakref.WeakSet[FileLock] = weakref.WeakSet()

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        # Found once, as `path` was: to follow all links takes longer than to look at the lock.
        self._database = database_file(engine.url)
        self._fd: int | None = None
        self._claim: socket.socket | None = None
        self._instances.add(self)

    @contextmanager
    def hold(self, gives_up: Callable[[float], bool] | None = None) -> Iterator[Connection]:
        """Block until the lock is held; yield a connection."""
        # flock, not lockf: a POSIX lock is dropped as soon as the process closes any descriptor of the file.
        # The file is never unlinked: otherwise two processes could hold locks on two different files.
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LogUnavailableError(
                f"{self.path}, the owner's lock, can't be opened ({error.strerror}): nothing is sent;"
                " give it to the user that runs the server (chown)"
            ) from error
        try:
            give_to_owner(self._fd, self._database)
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
        if _is_claimed(self._database):
            return True
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # it is not there; or another user's, and nobody has claimed the database
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
                # A blocking flock can't be ended: after a signal, Python resumes it.
                if gives_up(FILE_LOCK_POLL):
                    raise StandbyEndedError from None

    def _warn_of_other_names(self) -> None:
        if self._database is not None and has_other_names(self._database):
            logger.warning(
                "[MQTT Reliable Sync] %s has hard links: a process that opens it by another name damages it;"
                " use symbolic links",
                self._database,
            )

    def _wait_for_claim(self, gives_up: Callable[[float], bool] | None) -> None:
        pause = gives_up or threading.Event().wait
        while True:
            try:
                self._claim = _claim(self._database)
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
        """Close the inherited descriptors in a child, which would keep the lock after its parent has died."""
        for lock in list(cls._instances):
            lock._let_go()


os.register_at_fork(after_in_child=FileLock.forked)


class AdvisoryLock:
    """A PostgreSQL advisory lock, held by the same connection that the owner works on.

    When that connection ends, for whatever reason, the lock and the ability to write end together.
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
        key = {"key": OWNER_KEY}
        if gives_up is None:
            connection.execute(sql.database.LOCK, key)
            return
        # Not by lock_timeout: the server would log each timeout.
        while not connection.execute(sql.database.TRY_LOCK, key).scalar():
            if gives_up(ADVISORY_LOCK_POLL):
                raise StandbyEndedError

    def is_held(self, connection: Connection | None = None) -> bool:
        """Whether any process holds the lock."""
        high, low = divmod(OWNER_KEY, 2**32)
        with translated(), ExitStack() as stack:
            connection = connection or stack.enter_context(self._engine.connect())
            ((found,),) = read_rows(connection, sql.database.IS_LOCKED, {"high": high, "low": low})
            return bool(found)


def _threads_are_green() -> bool:
    """Whether gevent has replaced threads: one that blocks in the kernel would then block the whole process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def open_lock(url: URL) -> tuple[LeadershipLock, Path]:
    """Return the owner's lock for a database, and the path of its notifier's socket. Opens nothing yet."""
    engine = open_engine(url)
    if is_sqlite(url):
        # A database in memory has only one process, so its name does not matter.
        database = database_file(url) or Path(url.database or "arus.sqlite").absolute()
        return FileLock(database.with_name(f"{database.name}.owner-lock"), engine), _bell_path(
            database
        )
    return AdvisoryLock(engine), _temporary_path(f"{url.host}:{url.port}/{url.database}".encode())


def _bell_path(database: Path) -> Path:
    beside = database.with_name(f"{database.name}.notifier") / "socket"
    if len(os.fsencode(beside)) <= _MAX_SOCKET_PATH:
        return beside
    return _temporary_path(os.fsencode(database))


def _temporary_path(database: bytes) -> Path:
    """Return the path of a notifier that can't be beside its database."""
    directory, name = f"arus-{os.getuid()}", hashlib.sha256(database).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), directory, name)
    # TMPDIR may be too deep for a socket as well.
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    return Path("/tmp", directory, name)  # noqa: S108  # the directory is this user's, or it is not used


class Leadership:
    """A process's candidate for leadership: one daemon thread.

    :param make_relay: builds the relay once this process owns the session.
    :param reserve: what the owner uses on a full disk; none by default.
    :param with_actor: whether changes are sent with their actor.
    """

    def __init__(
        self,
        lock: LeadershipLock,
        bell_path: Path,
        vessel_id: str | None,
        make_relay: Callable[[ChangeLog, NotificationListener], Relay],
        *,
        reserve: DiskReserve | None = None,
        with_actor: bool = False,
    ) -> None:
        self._lock = lock
        self._bell_path = bell_path
        self._vessel_id = vessel_id
        self._make_relay = make_relay
        self._reserve = reserve
        self._with_actor = with_actor
        self._said: str | None = None
        self._stopping = threading.Event()
        self._relay: Relay | None = None
        # A daemon: a thread that waits for the lock can't be interrupted, and need not be.
        self._thread = threading.Thread(target=self._run, name="arus-owner", daemon=True)

    def start(self) -> None:
        """Start waiting for leadership."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Resign, and disconnect from the broker with a last status; return within `timeout` seconds."""
        self._stopping.set()
        relay = self._relay
        if relay is None:
            return  # it waits for the lock; if it still gets it, it releases it at once
        relay.stop()
        notifier = Notifier(self._bell_path)
        notifier.notify()
        notifier.close()
        self._thread.join(timeout)

    def _run(self) -> None:
        said: str | None = None
        gives_up = self._stopping.wait if _threads_are_green() else None
        while not self._stopping.is_set():
            try:
                self.lead(gives_up)
                said = None
                continue
            except StandbyEndedError:
                return
            except LeadershipLostError as error:
                logger.warning("[MQTT Reliable Sync] %s; standing down", error)
            except LogUnavailableError as error:
                if str(error) != said:
                    logger.warning("[MQTT Reliable Sync] %s; trying again", error)
                said = str(error)
            except Exception:  # the thread must go on after a pause, or nothing is delivered
                logger.exception("[MQTT Reliable Sync] the relay failed; restarting it")
            self._stopping.wait(RETRY_INTERVAL)

    def lead(
        self,
        gives_up: Callable[[float], bool] | None = None,
        done: Callable[[], bool] | None = None,
    ) -> None:
        """Wait for the lock, and relay in this thread until stopped or `done`.

        :param gives_up: see `LeadershipLock.hold`.
        :param done: called before each round of the relay.
        :raises StandbyEndedError: `gives_up` returned True.
        :raises LeadershipLostError: another process has taken over.
        :raises LogUnavailableError: the database can't be used.
        """
        with self._lock.hold(gives_up) as connection:
            if self._stopping.is_set():
                return
            log = ChangeLog(
                connection,
                vessel_id=self._vessel_id,
                reserve=self._reserve,
                with_actor=self._with_actor,
            )
            logger.info(
                "[MQTT Reliable Sync] process %d owns the session (generation %d)",
                os.getpid(),
                log.generation,
                extra={"generation": log.generation},
            )
            notifier = NotificationListener(self._bell_path)
            self._say_once(notifier.problem)
            try:
                self._relay = self._make_relay(log, notifier)
                if not self._stopping.is_set():
                    self._relay.run(done)
                log.stand_down()
            finally:
                self._relay = None
                notifier.close()

    def _say_once(self, problem: str | None) -> None:
        if problem is not None and problem != self._said:
            logger.warning(
                "[MQTT Reliable Sync] no notifications (%s): changes are looked for once a second",
                problem,
            )
            self._said = problem
