"""The vessel's database, real, and what can go wrong with it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg.rows import dict_row

from tests.support.postgres import PostgresServer

_SIZE = "64m"
_OWNER = "SELECT owner_pid FROM arus_session WHERE id = 1"
_CHANGES = (
    "SELECT id, seq, previous_seq, message_id, topic, qos, entity, operation, row_id, version,"
    " outcome, reason FROM arus_change ORDER BY id"
)


class Database(Protocol):
    """One kind of database."""

    url: str

    def owner_pid(self) -> int | None:
        """The owner as the change log has it; None when the database won't say."""

    def lock(self) -> Callable[[], None] | None:
        """Keep everyone from writing; returns what ends it, or None when it was not to be had."""

    def changes(self) -> list[dict[str, Any]]:
        """The change log."""


class SmallDisk:
    """A file system of its own, small enough to be filled; needs root."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"
        directory.mkdir(parents=True, exist_ok=True)
        #: Why there is none; the directory is an ordinary one then.
        self.missing: str | None = None
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "arus-faults", directory],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            self.missing = f"a file system can't be mounted here: {done.stderr.strip()}"

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as ballast, suppress(OSError):
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while ballast.write(b"\0" * size) == size:
                        pass

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        if self.missing is None:
            # lazily: who still holds a file on it keeps it until the end
            subprocess.run(["umount", "-l", self.directory], check=True)


class Sqlite:
    """A SQLite file on a small disk."""

    def __init__(self, disk: SmallDisk) -> None:
        self._path = disk.directory / "arus.sqlite"
        self.url = f"sqlite:///{self._path}"

    def owner_pid(self) -> int | None:
        """The owner as the change log has it."""
        try:
            connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=0.2)
            try:
                row = connection.execute(_OWNER).fetchone()
            finally:
                connection.close()
        except sqlite3.Error:
            return None
        return row[0] if row else None

    def lock(self) -> Callable[[], None] | None:
        """Hold the one write lock there is."""
        connection = sqlite3.connect(self._path, timeout=3, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            connection.close()
            return None

        def release() -> None:
            connection.execute("ROLLBACK")
            connection.close()

        return release

    def changes(self) -> list[dict[str, Any]]:
        """The change log."""
        connection = sqlite3.connect(self._path, timeout=10)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(_CHANGES)]
        finally:
            connection.close()


class Postgres:
    """A PostgreSQL server; the application's database is in a tablespace on the small disk.

    There a full disk fails the statements that need room. With the server's own log on it, the
    server itself would end, which is another fault: `crash`.
    """

    def __init__(self, disk: SmallDisk, stack: ExitStack) -> None:
        self.server = stack.enter_context(PostgresServer())
        space = disk.directory / "space"
        space.mkdir()
        directory = self.server._directory.stat()
        for path in (disk.directory, space):
            os.chown(path, directory.st_uid, directory.st_gid)
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
            connection.execute("CREATE DATABASE vessel TABLESPACE small")
        self.url = self.server.url("vessel")

    def _connect(self, database: str = "vessel", **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user="arus",
            dbname=database,
            autocommit=True,
            connect_timeout=2,
            row_factory=dict_row,
            **options,
        )

    def owner_pid(self) -> int | None:
        """The owner as the change log has it."""
        try:
            with self._connect(options="-c statement_timeout=500") as connection:
                row = connection.execute(_OWNER).fetchone()
        except psycopg.Error:
            return None
        return row["owner_pid"] if row else None

    def lock(self) -> Callable[[], None] | None:
        """Lock the change log against all writers."""
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(
                    closing(self._connect(options="-c lock_timeout=3000"))
                )
                connection.autocommit = False
                connection.execute("LOCK TABLE arus_change, arus_session IN EXCLUSIVE MODE")
            except psycopg.Error:
                return None
            return stack.pop_all().close

    def end_owners_connection(self) -> bool:
        """Have the server end the connection that holds the owner's lock: another takes over."""
        try:
            with self._connect(options="-c statement_timeout=500") as connection:
                ended = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks"
                    " WHERE locktype = 'advisory' AND granted"
                ).fetchall()
        except psycopg.Error:
            return False
        return bool(ended)

    def crash(self) -> None:
        """End the server at once, as a crash would, and start it again."""
        self.server.stop()
        self.server.start()

    def changes(self) -> list[dict[str, Any]]:
        """The change log."""
        with self._connect() as connection:
            return list(connection.execute(_CHANGES).fetchall())


def free_directory(path: Path) -> None:
    """Remove a directory and what is in it."""
    shutil.rmtree(path, ignore_errors=True)
