"""The disk reserve: space that the owner gives up when the disk is full, so that it can deliver what was accepted.

On a full disk SQLite can neither commit nor move its write-ahead log into the database file, so nobody can make a
note of what the broker has acknowledged. The owner keeps a file next to the database for this case. It gives the
file's space up only while it holds the write lock, and takes it back before others can use it. The application's own
writes keep failing until somebody makes room.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection

from arus.database import empty_wal, give_to_owner
from arus.errors import LogUnavailableError
from arus.logs import get_logger

logger = get_logger(__name__)

#: Bytes that are reserved on a disk with enough room: more than the write-ahead log of an owner that keeps up.
SIZE = 8 * 1024 * 1024
#: Of a smaller disk, only this part of the free space is reserved.
PART = 4
_BLOCK = 4096
#: Bytes that writing an entry takes at first; if a transaction still does not fit, the next one writes half as many.
_ENTRY = 16 * 1024
_NOTE = b"Reserved by Arus, to deliver what was accepted when the disk is full. Bytes reserved: "


class DiskReserve:
    """The reserve of one database.

    Without a path (a database on a server or in memory), or where the file can't be made, it does nothing.

    :param database: the file of a SQLite database.
    :param size: bytes to reserve on a disk with enough room.
    """

    def __init__(self, database: Path | None, size: int = SIZE) -> None:
        self._database = database
        self._path = None if database is None else reserve_of(database)
        self._size = size
        #: Bytes to keep reserved; 0 before `prepare`.
        self._wanted = 0
        #: Whether the disk was found full, so that each transaction of the owner uses the reserve.
        self.is_used = False
        #: Entries that a transaction may write while the reserve is used.
        self._most = 0

    def prepare(self) -> None:
        """Reserve the space if that is not done yet."""
        if self._path is None or self._wanted:
            return
        try:
            self._wanted = self._find_wanted(self._path)
            self._fill(self._path)
        except OSError as error:
            logger.warning(
                "[MQTT Reliable Sync] %s can't be made (%s): on a full disk nothing is delivered"
                " until somebody makes room",
                self._path,
                error.strerror,
            )
            self._path = None

    def _find_wanted(self, path: Path) -> int:
        room = _free(path.parent) + _allocated(path)
        return max(_noted(path), min(self._size, room // PART) // _BLOCK * _BLOCK)

    def found_full(self, connection: Connection) -> None:
        """Make room after a failed commit: empty the write-ahead log with the help of the reserve.

        The log on disk is at least as large as the growth of the database that it causes, so that afterwards the
        reserve can be taken back.
        """
        if self._path is None:
            return
        if not self.is_used:
            logger.warning(
                "[MQTT Reliable Sync] the disk of %s is full: what was accepted is delivered with the space"
                " reserved in %s; make room",
                self._path.parent,
                self._path.name,
            )
        self._wanted = self._wanted or self._find_wanted(self._path)
        self._most = max(1, self._most // 2 if self.is_used else self._wanted // _ENTRY)
        self.is_used = True
        self.give_up()
        self.take_back(connection)

    def most(self, entries: int) -> int:
        """Return how many entries a transaction may write: fewer than `entries` if it has to fit into the reserve."""
        return min(entries, self._most) if self.is_used else entries

    def give_up(self) -> None:
        """Give the space up if the disk is full; to be called while the write lock is held."""
        if self.is_used and self._path is not None and _allocated(self._path) > _BLOCK:
            os.truncate(self._path, _BLOCK)

    def take_back(self, connection: Connection) -> None:
        """Take the space back after a transaction; to be called between transactions."""
        if not self.is_used or self._path is None:
            return
        try:
            empty_wal(connection)
        except LogUnavailableError as error:
            logger.debug("[MQTT Reliable Sync] %s", error)
        try:
            self._fill(self._path)
            enough = _allocated(self._path) >= self._wanted
            if enough and _free(self._path.parent) >= self._wanted:
                self.is_used = False
                logger.info("[MQTT Reliable Sync] the disk of %s has room again", self._path.parent)
        except OSError as error:
            logger.debug("[MQTT Reliable Sync] %s can't be filled: %s", self._path, error)

    def _fill(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner(handle, self._database)
            _allocate(handle, self._wanted)
            note = _NOTE + str(self._wanted).encode() + b"\n"
            if os.pread(handle, len(note), 0) != note:
                os.pwrite(handle, note, 0)
        finally:
            os.close(handle)


def reserve_of(database: Path) -> Path:
    """Return the file that holds the reserve of a SQLite database."""
    return database.with_name(f"{database.name}.reserve")


def kept(database: Path) -> int:
    """Return the bytes that are reserved for a SQLite database now."""
    try:
        return _allocated(reserve_of(database)) // (2 * _BLOCK) * 2 * _BLOCK
    except OSError:
        return 0


def is_full(database: Path) -> bool:
    """Whether the disk of a SQLite database has so little room that commits fail."""
    try:
        return _free(database.parent) < 16 * _BLOCK
    except OSError:
        return False


def _free(directory: Path) -> int:
    found = os.statvfs(directory)
    return (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _noted(path: Path) -> int:
    """Return how much is to be reserved, as the file itself says; 0 if it does not."""
    try:
        with path.open("rb") as file:
            head = file.read(_BLOCK)
    except FileNotFoundError:
        return 0
    _, found, rest = head.partition(_NOTE)
    number = rest.partition(b"\n")[0]
    return int(number) if found and number.isdigit() else 0


def _allocate(handle: int, wanted: int) -> None:
    """Let a file have `wanted` bytes on the disk, or as many as there is room for."""
    there = os.fstat(handle).st_size
    step = wanted - there
    while there < wanted and step >= _BLOCK:
        step = min(step, wanted - there)
        try:
            _extend(handle, there, step)
            there += step
        except OSError:
            os.ftruncate(handle, there)
            step = step // 2 // _BLOCK * _BLOCK


def _extend(handle: int, start: int, length: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, start, length)
        return
    zeros = b"\0" * _BLOCK
    for offset in range(start, start + length, _BLOCK):
        if os.pwrite(handle, zeros, offset) < _BLOCK:
            raise OSError("the disk is full")
