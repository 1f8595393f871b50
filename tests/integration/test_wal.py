"""SQLite's write-ahead log stays short, whoever writes; one that has filled the disk is overcome."""

from __future__ import annotations

import resource
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from arus.database import begin_immediate
from arus.errors import LogUnavailableError
from arus.outbox import log as changelog
from arus.outbox.log import ChangeLog

#: A commit of `write` puts so many pages into the write-ahead log.
PAGES = 10
PAGE = 4096


pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


@pytest.fixture
def database(log: Connection) -> Path:
    """The file of an empty log that has a table to write to."""
    path = Path(log.engine.url.database or "")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE ballast (n INTEGER PRIMARY KEY, data BLOB)")
        connection.executemany(
            "INSERT INTO ballast VALUES (?, zeroblob(4000))", [(n,) for n in range(PAGES)]
        )
        connection.commit()
    return path


def write(connection: sqlite3.Connection) -> None:
    begin_immediate(connection, 30)
    connection.execute("UPDATE ballast SET data = randomblob(4000)")
    connection.execute("COMMIT")


def wal(database: Path) -> int:
    return database.with_name(f"{database.name}-wal").stat().st_size


@pytest.mark.slow
def test_the_log_begins_anew_though_others_commit_and_read_all_the_time(
    database: Path, log: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changelog, "TIDY_EVERY", 1)
    owner = ChangeLog(log, vessel_id=None)
    enough = threading.Event()
    written = [0, 0]

    def others(number: int) -> None:
        with closing(sqlite3.connect(database, isolation_level=None)) as mine:
            mine.execute("PRAGMA wal_autocheckpoint = 0")
            mine.execute("PRAGMA synchronous = OFF")
            while not enough.is_set():
                write(mine)
                written[number] += 1
                mine.execute("SELECT sum(length(data)) FROM ballast").fetchall()

    threads = [threading.Thread(target=others, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        while sum(written) < 2_000:
            with owner.fenced_transaction():
                pass
            owner.tidy()
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    # A log that never began anew would have all of it.
    assert wal(database) < sum(written) * PAGES * PAGE * 3 / 4


def test_an_owner_overcomes_a_log_that_has_filled_the_disk(database: Path, log: Connection) -> None:
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as writer,
        closing(sqlite3.connect(database, isolation_level=None)) as reader,
    ):
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ballast").fetchone()
        for _ in range(50):
            write(writer)
        full, hard = wal(database), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        assert full > database.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))
        try:
            # While somebody reads it can't begin anew.
            for _ in range(2):
                with pytest.raises(LogUnavailableError):
                    ChangeLog(log, vessel_id=None)
            reader.execute("COMMIT")
            with pytest.raises(LogUnavailableError):
                ChangeLog(log, vessel_id=None)
            assert ChangeLog(log, vessel_id=None).generation == 1
            write(writer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert wal(database) == full
