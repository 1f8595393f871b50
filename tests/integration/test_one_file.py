"""After a clean stop one file holds everything: SQLite's write-ahead log is emptied by the last process to leave.

And while it is in use, what is committed is in the file that is at its path, whatever somebody does with that.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.exc import OperationalError

from arus.database import flush_wal, open_engine, transaction, watch_files
from arus.errors import LogUnavailableError
from tests.support.gunicorn_app import ROOT, GunicornApp, clean_environment
from tests.support.waiting import eventually

ROWS = "SELECT count(*) FROM crew"
on_sqlite = pytest.mark.parametrize("database_kind", ["sqlite"])


def rows_in_a_copy(database: Path, query: str = ROWS) -> int:
    """The rows that a copy of the one file has."""
    copy = shutil.copy(database, database.with_name("copy.sqlite"))
    with closing(sqlite3.connect(copy)) as connection:
        return int(connection.execute(query).fetchone()[0])


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_leaves_one_file(
    start_app: Callable[..., GunicornApp], tmp_path: Path, number: signal.Signals
) -> None:
    app = start_app(workers=2)
    app.wait_connected()
    for n in range(6):
        app.post("/api/crew", {"name": f"Maria {n}"})
    assert app._child is not None
    app._child.send(number)
    assert app.wait() == 0
    assert rows_in_a_copy(tmp_path / "arus.sqlite") == 6


@pytest.mark.slow
@on_sqlite
def test_a_script_that_starts_no_relay_leaves_one_file(
    migrated_database_url: str, tmp_path: Path
) -> None:
    """Its connection stays open until the process has ended."""
    script = (
        "from app import create_app; from extensions import db\n"
        "from blueprints.crew.models import CrewMember\n"
        "app = create_app(); app.app_context().push()\n"
        "db.session.add(CrewMember(name='Maria')); db.session.commit(); kept = db.engine.connect()\n"
    )
    environment = clean_environment(
        DATABASE_URL=migrated_database_url, LOCAL_MODE="true", SECRET_KEY="x" * 20
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
    assert rows_in_a_copy(tmp_path / "arus.sqlite") == 1


def leave(database: Path, number: int, together: multiprocessing.synchronize.Barrier) -> None:
    connection = sqlite3.connect(database, timeout=30)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    together.wait()
    connection.execute("INSERT INTO row VALUES (?)", [number])
    connection.commit()
    flush_wal(make_url(f"sqlite:///{database}"))
    together.wait()  # nobody closes before all have left


def test_processes_that_leave_at_the_same_time_leave_one_file(tmp_path: Path) -> None:
    database = tmp_path / "arus.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE row (n INTEGER)")
    context = multiprocessing.get_context("fork")
    together = context.Barrier(4)
    leaving = [context.Process(target=leave, args=(database, n, together)) for n in range(4)]
    for process in leaving:
        process.start()
    for process in leaving:
        process.join(30)
        assert process.exitcode == 0
    assert rows_in_a_copy(database, "SELECT count(*) FROM row") == 4


def test_a_database_that_somebody_reads_is_left_to_them(tmp_path: Path) -> None:
    database = tmp_path / "arus.sqlite"
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as writer,
        closing(sqlite3.connect(database, isolation_level=None)) as reader,
    ):
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE row (n INTEGER)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM row").fetchall()
        writer.execute("INSERT INTO row VALUES (1)")
        flush_wal(make_url(f"sqlite:///{database}"))
        reader.execute("COMMIT")
        flush_wal(make_url(f"sqlite:///{database}"))
        assert rows_in_a_copy(database, "SELECT count(*) FROM row") == 1


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    flush_wal(make_url(f"sqlite:///{tmp_path}/arus.sqlite"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Engine]:
    """An engine with a connection in its pool; its database has one row, in the write-ahead log."""
    engine = create_engine(f"sqlite:///{tmp_path}/arus.sqlite")
    watch_files(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("CREATE TABLE row (n INTEGER)")
    engine.dispose()
    add(engine, 1)
    yield engine
    engine.dispose()


def add(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO row VALUES (?)", (number,))


def rows(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT n FROM row ORDER BY n").scalars())


def another(database: Path) -> Path:
    """A database with the row 7, to be put in place of `database`."""
    copy = database.with_name("another.sqlite")
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE row (n INTEGER)")
        connection.execute("INSERT INTO row VALUES (7)")
        connection.commit()
    return copy


@pytest.mark.parametrize("with_log", [False, True], ids=["its log removed", "its log left"])
def test_after_a_database_was_replaced_the_new_one_is_written(
    pool: Engine, tmp_path: Path, with_log: bool
) -> None:
    database = tmp_path / "arus.sqlite"
    if not with_log:
        for end in ("-wal", "-shm"):
            (tmp_path / f"arus.sqlite{end}").unlink()
    another(database).replace(database)
    add(pool, 8)
    assert rows(pool) == [7, 8]
    with pool.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_two_pools_leave_a_replaced_database_without_a_commit_lost(
    pool: Engine, tmp_path: Path
) -> None:
    database = tmp_path / "arus.sqlite"
    other = create_engine(pool.url)
    watch_files(other)
    assert rows(other) == [1]
    another(database).replace(database)
    add(pool, 8)
    add(other, 9)
    assert rows(pool) == rows(other) == [7, 8, 9]
    other.dispose()


def test_a_database_that_was_moved_away_has_everything_and_is_not_made_again(
    pool: Engine, tmp_path: Path
) -> None:
    database, moved = tmp_path / "arus.sqlite", tmp_path / "moved.sqlite"
    database.rename(moved)
    for _ in range(2):
        with pytest.raises(OperationalError, match="is gone"):
            add(pool, 2)
    assert not database.exists()
    assert rows_in_a_copy(moved, "SELECT count(*) FROM row") == 1
    moved.rename(database)
    add(pool, 2)
    assert rows(pool) == [1, 2]


def test_a_write_ahead_log_that_somebody_removes_takes_no_commit_with_it(
    pool: Engine, tmp_path: Path
) -> None:
    for end in ("-wal", "-shm"):
        (tmp_path / f"arus.sqlite{end}").unlink()
    add(pool, 2)
    with closing(sqlite3.connect(tmp_path / "arus.sqlite")) as stranger:
        assert stranger.execute("SELECT count(*) FROM row").fetchone() == (2,)


def test_a_connection_that_is_kept_begins_no_transaction_in_a_replaced_database(
    pool: Engine, tmp_path: Path
) -> None:
    database = tmp_path / "arus.sqlite"
    with open_engine(pool.url).connect() as kept:
        with transaction(kept):
            pass
        another(database).replace(database)
        with pytest.raises(LogUnavailableError, match="was replaced"), transaction(kept):
            pytest.fail("nobody finds what is written here")


@pytest.mark.slow
@on_sqlite
def test_a_copy_put_in_place_under_a_server_is_taken_up(
    start_app: Callable[..., GunicornApp], tmp_path: Path
) -> None:
    app = start_app(workers=2)
    app.wait_connected()
    database = tmp_path / "arus.sqlite"
    app.post("/api/crew", {"name": "Maria"})
    with closing(sqlite3.connect(database)) as source:
        source.execute("VACUUM INTO ?", [str(tmp_path / "copy.sqlite")])
    os.replace(tmp_path / "copy.sqlite", database)
    # nothing is written, so no transaction tells the owner
    eventually(lambda: app.health()["owner"]["generation"] == 2, 10, message="another owner")
    assert app.post("/api/crew", {"name": "Nikos"}).status == 201
    app.wait_connected()
    assert app.stop() == 0
    assert rows_in_a_copy(database) == 2
