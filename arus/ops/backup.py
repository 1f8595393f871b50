"""A consistent copy of a SQLite database while it is in use."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from arus.errors import BackupError
from arus.outbox import sql

#: Pages copied at a time: between two steps, a signal is noticed.
_STEP = 1_000
_TIMEOUT = 30.0


def back_up(database: Path, target: Path) -> int:
    """Copy a SQLite database to a new file, which appears when it is complete and on the disk.

    The copy is the database as of one moment; in WAL mode nobody waits for it. Without WAL, writers wait.

    :returns: the copy's size in bytes.
    :raises BackupError: the target exists, there is no such database, or it is empty or damaged, or can't be read.
    :raises OSError: the target can't be written.
    """
    if os.path.lexists(target):
        raise BackupError(f"{target} exists already; a backup never replaces a file")
    if not database.is_file():
        raise BackupError(f"there is no file {database}")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        # Not readable for others before it has the database's own permissions.
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _copy(database, unfinished)
        unfinished.chmod(database.stat().st_mode & 0o777)
        _place(unfinished, target)
    except sqlite3.Error as error:
        raise BackupError(f"{database} can't be copied to {target}: {error}") from error
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            unfinished.with_name(unfinished.name + end).unlink(missing_ok=True)
    return target.stat().st_size


def _copy(database: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(_address(database), uri=True, timeout=_TIMEOUT)) as source,
        closing(sqlite3.connect(_address(target), uri=True)) as copy,
    ):
        # With an open read transaction, the copy does not begin again whenever somebody commits.
        source.execute("BEGIN")
        if source.execute(sql.database.FIRST_READ).fetchone() is None:
            raise BackupError(f"{database} has no tables: is it the database that is meant?")
        source.backup(copy, pages=_STEP)
        found = copy.execute(sql.database.QUICK_CHECK).fetchone()[0]
        if found != "ok":
            raise BackupError(f"{database} is damaged: {found}")


def _address(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=rw"  # never creates a file


def _place(unfinished: Path, target: Path) -> None:
    """Give the copy its name, unless somebody has used it meanwhile."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(unfinished, target)
    except FileExistsError:
        raise BackupError(f"{target} exists already; a backup never replaces a file") from None
    except OSError:  # a file system without hard links, as on a USB stick
        if os.path.lexists(target):
            raise BackupError(f"{target} exists already; a backup never replaces a file") from None
        unfinished.rename(target)
    directory = os.open(target.absolute().parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every file system can
            os.fsync(directory)
    finally:
        os.close(directory)
