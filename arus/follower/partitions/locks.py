"""The advisory locks of partitions, and the limit after which a silent process loses them.

A lock belongs to a session of the database. If a process is killed, or its host reports the end of the connection, the
server releases its locks at once. If it is stopped (SIGSTOP), or its network is gone, the server ends its sessions after
`LEASE` seconds without a statement (`idle_session_timeout`). The session is also the one on which the process writes,
so what was stopped and continues can't write anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import IntEnum

from msgspec import Struct
from sqlalchemy import URL, Connection, event
from sqlalchemy.exc import PendingRollbackError, StatementError

from arus.database import OWNER_KEY, open_engine, translated
from arus.errors import FollowError, LogUnavailableError
from arus.logs import get_logger
from arus.outbox import sql as outbox_sql

logger = get_logger(__name__)


#: Seconds without a statement after which the server ends a session, and with it the locks.
LEASE = 6.0
#: Seconds between two statements of a session that has nothing else to do.
BEAT = 1.5
#: Seconds for which a session waits for its client before another process ends it. The server does so earlier, except
#: where the process was stopped in the middle of a statement.
SILENT = LEASE + 2
#: What is said when a session has ended.
ENDED = "the session at the database has ended, and its locks with it"
#: The first version of PostgreSQL with `idle_session_timeout`.
_VERSION = (14,)


@contextmanager
def open_session(url: URL) -> Iterator[Connection]:
    """Open a session with the lease. It never connects again: a second session would not have the locks of the first.

    :raises LogUnavailableError: the database can't be used; or, while the block runs, the session has ended.
    """
    engine = open_engine(url, lease=LEASE)
    is_open = False

    @event.listens_for(engine, "do_connect")
    def refuse_second(*_: object) -> None:
        nonlocal is_open
        if is_open:
            raise LogUnavailableError(ENDED)
        is_open = True

    try:
        with translated(), engine.connect() as connection:
            yield connection
    except PendingRollbackError as error:  # a statement after the one that has failed
        raise LogUnavailableError(ENDED) from error
    except StatementError as error:
        if isinstance(error.orig, LogUnavailableError):
            raise error.orig from error
        raise
    finally:
        engine.dispose()


class Kind(IntEnum):
    """What a lock is for."""

    #: A partition: exclusive.
    PARTITION = int.from_bytes(b"arup", "big")
    #: The presence of a process: shared by all of them, so that each can count them.
    WORKER = int.from_bytes(b"aruw", "big")
    #: Finding vessels that are not known yet: exclusive.
    DISCOVERY = int.from_bytes(b"arud", "big")


class Holders(Struct, frozen=True):
    """Who holds which locks."""

    #: Numbers of the partitions that some process holds.
    partitions: frozenset[int]
    #: Sessions of the processes that are running, the oldest first, by the ids of their servers' processes.
    workers: tuple[int, ...]
    #: Whether some process looks for new vessels.
    discovers: bool
    #: For how many seconds sessions have been waiting for their clients, by id.
    silent: dict[int, float]


def check_version(connection: Connection) -> None:
    """Check that the server ends silent sessions.

    :raises FollowError: it is too old.
    """
    version = connection.dialect.server_version_info or ()
    if version < _VERSION:
        raise FollowError(
            f"--partitions needs PostgreSQL 14 or newer, which ends the sessions of a process that hangs; this is"
            f" {'.'.join(map(str, version))}"
        )


def share_database(connection: Connection) -> bool:
    """Take a share of the owner's lock: a follower that does without partitions stands by. Return False if one runs."""
    return bool(connection.execute(outbox_sql.database.TRY_SHARE, {"key": OWNER_KEY}).scalar())


def take(connection: Connection, kind: Kind, number: int = 0) -> bool:
    """Take an exclusive lock until the end of the session; return False if another process has it."""
    wanted = {"kind": kind, "number": number}
    return bool(connection.execute(outbox_sql.database.TRY_LOCK_OF, wanted).scalar())


def be_present(connection: Connection) -> int:
    """Show the presence of this process until the end of the session; return the session's id."""
    wanted = {"kind": Kind.WORKER, "number": 0}
    connection.execute(outbox_sql.database.TRY_SHARE_OF, wanted).scalar_one()
    return int(connection.execute(outbox_sql.database.OWN_PID).scalar_one())


def read_holders(connection: Connection) -> Holders:
    """Return who holds which locks."""
    rows = connection.execute(outbox_sql.database.HOLDERS, {"kinds": list(Kind)}).all()
    return Holders(
        partitions=frozenset(row.number for row in rows if row.kind == Kind.PARTITION),
        workers=tuple(row.pid for row in rows if row.kind == Kind.WORKER),
        discovers=any(row.kind == Kind.DISCOVERY for row in rows),
        silent={row.pid: row.silent for row in rows if row.silent is not None},
    )


def end_silent(connection: Connection, holders: Holders, own: Collection[int] = ()) -> None:
    """End the sessions that the server does not end by itself: those that were stopped in the middle of a statement.

    :param own: ids of sessions that are never ended.
    """
    for pid, seconds in holders.silent.items():
        if seconds > SILENT and pid not in own:
            logger.warning(
                "[MQTT Reliable Sync] a process that holds partitions has been silent for %d s: its session %d is ended",
                seconds,
                pid,
            )
            connection.execute(outbox_sql.database.END_SESSION, {"pid": pid}).scalar()
